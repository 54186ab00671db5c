"""``ProjectFilter``: the tasks of the configured projects, and names that match none."""

from msgspec.structs import replace

from aluma_async.aluma.project_filter import ProjectFilter
from aluma_async.events import ListingIncomplete, ProjectsFiltered, ProjectUnmatched
from aluma_async.models import ExportTask

INVOICE = ExportTask("1", project_id="p1", project_name="Invoices")
ORDER = ExportTask("2", project_id="p2", project_name="Orders")


def test_filter_selects_by_id_or_name():
    assert ProjectFilter(["p2", "Invoices"]).select([INVOICE, ORDER]) == [INVOICE, ORDER]
    assert ProjectFilter(["p2"]).select([INVOICE, ORDER]) == [ORDER]
    assert ProjectFilter([]).select([INVOICE, ORDER]) == [INVOICE, ORDER]
    assert not list(ProjectFilter([]).end_listing())


def test_filter_reports_a_name_that_matches_nothing_once_with_the_nearest():
    projects = ProjectFilter(["Invoces", "p2", "xyz"])
    projects.select([INVOICE, ORDER])
    assert list(projects.end_listing()) == [
        ProjectsFiltered(1),
        ProjectUnmatched("Invoces", "; the nearest is 'Invoices'"),
        ProjectUnmatched("xyz", ""),
    ]
    projects.select([INVOICE, INVOICE])
    assert list(projects.end_listing()) == [ProjectsFiltered(2)]


def test_filter_does_not_report_a_project_without_pending_tasks():
    """It matched before, or nothing at all is pending."""
    projects = ProjectFilter(["Invoices"])
    assert list(projects.end_listing()) == [ProjectsFiltered(0)]
    projects.select([INVOICE])
    assert list(projects.end_listing()) == [ProjectsFiltered(0)]
    projects.select([ORDER])
    assert list(projects.end_listing()) == [ProjectsFiltered(1)]


def test_filter_reports_tasks_without_a_project():
    """They may belong to a configured project, so the listing does not show all of its tasks."""
    projects = ProjectFilter(["p1"])
    projects.select([INVOICE, ExportTask("3"), ExportTask("4", project_id="p9"), ExportTask("5", project_name="x")])
    filtered, incomplete = projects.end_listing()
    assert filtered == ProjectsFiltered(3)
    assert incomplete == ListingIncomplete("tasks without a project: 1, which may belong to the configured ones")
    projects.select([INVOICE, ORDER])
    assert [type(event) for event in projects.end_listing()] == [ProjectsFiltered]


def test_filter_hides_no_contradiction_of_a_listing():
    """Otherwise a task of another project could be exported as one of the selected project."""
    other = replace(INVOICE, project_id="p9", project_name="Confidential")
    unknown = replace(INVOICE, project_id="", project_name="")
    projects = ProjectFilter(["p1"])
    assert projects.select([INVOICE, other]) == [INVOICE, unknown]
    list(projects.end_listing())
    assert projects.select([other]) == []
    assert projects.select([INVOICE]) == [unknown]
    assert projects.excludes(unknown)
    assert not projects.excludes(INVOICE)
    list(projects.end_listing())
    assert projects.select([INVOICE, INVOICE]) == [INVOICE, INVOICE]
