"""PostgreSQL's catalog: a table's columns with the base types of domains, unique indexes, rights and policies.

SQLAlchemy's reflection knows neither rights nor policies, reads all tables that foreign keys refer to, and does not
resolve domains.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aluma_async.destinations.sql.layout import Column, ColumnType, Kind, Layout, UniqueIndex, Unit
from aluma_async.destinations.sql.temporal import MAX_FRACTION

_TRIGGERS = """
  FROM pg_trigger g WHERE NOT g.tgisinternal
    AND (g.tgrelid = c.oid OR g.tgrelid IN (SELECT relid FROM pg_partition_tree(c.oid)))
"""
"""The triggers of the table c and of its partitions."""
_FINGERPRINT = f"""concat_ws('/',
  (SELECT string_agg(a.xmin::text, ' ' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid),
  (SELECT string_agg(concat(g.oid, ' ', g.xmin), ' ' ORDER BY g.oid) {_TRIGGERS}))
"""

DESCRIBE = (
    """
SELECT n.nspname, c.relkind, c.relpersistence, has_schema_privilege(n.oid, 'USAGE'),
  has_database_privilege(current_database(), 'TEMPORARY'), has_table_privilege(c.oid, 'DELETE'),
  CASE WHEN row_security_active(c.oid) THEN (
    SELECT coalesce(json_agg(DISTINCT p.polcmd), '[]') FROM pg_policy p
    WHERE p.polrelid = c.oid AND p.polpermissive AND (p.polroles = '{0}' OR EXISTS (
      SELECT FROM unnest(p.polroles) AS member (oid) WHERE member.oid <> 0 AND pg_has_role(member.oid, 'USAGE')))) END,
  (SELECT coalesce(json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod), base.name, base.mod,
      base.is_array, a.attnotnull OR base.required, a.attidentity = 'a', a.attgenerated <> '',
      array_remove(ARRAY[
        CASE WHEN NOT has_column_privilege(c.oid, a.attnum, 'SELECT') THEN 'SELECT' END,
        CASE WHEN NOT has_column_privilege(c.oid, a.attnum, 'INSERT') THEN 'INSERT' END,
        CASE WHEN NOT has_column_privilege(c.oid, a.attnum, 'UPDATE') THEN 'UPDATE' END], NULL),
      (SELECT s.oid::regclass::text FROM pg_attrdef f
       JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
         AND d.refclassid = 'pg_class'::regclass
       JOIN pg_class s ON s.oid = d.refobjid
       WHERE f.adrelid = c.oid AND f.adnum = a.attnum
         AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE, UPDATE') END LIMIT 1),
      EXISTS (SELECT FROM pg_collation k WHERE k.oid = a.attcollation AND NOT k.collisdeterministic)
    ) ORDER BY a.attnum), '[]')
   FROM pg_attribute a CROSS JOIN LATERAL (
     WITH RECURSIVE chain (oid, mod, required, is_array, depth) AS (
       SELECT a.atttypid, a.atttypmod, false, false, 0
       UNION ALL
       SELECT CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END,
         CASE WHEN t.typtype = 'd' AND t.typtypmod >= 0 THEN t.typtypmod ELSE chain.mod END,
         chain.required OR (t.typnotnull AND NOT chain.is_array), chain.is_array OR t.typtype <> 'd', depth + 1
       FROM chain JOIN pg_type t ON t.oid = chain.oid
       WHERE t.typtype = 'd' OR (t.typcategory = 'A' AND t.typelem <> 0))
     SELECT CASE WHEN t.typtype = 'e' THEN 'enum'
         WHEN t.typnamespace = 'pg_catalog'::regnamespace OR t.typname = 'citext' THEN t.typname ELSE '' END AS name,
       mod, required, is_array
     FROM chain JOIN pg_type t ON t.oid = chain.oid ORDER BY depth DESC LIMIT 1) AS base
   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  (SELECT coalesce(json_agg(json_build_array(x.relname,
      (SELECT coalesce(json_agg(a.attname), '[]') FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k (attnum)
       JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum),
      CASE WHEN i.indpred IS NOT NULL THEN 'has a condition (WHERE)'
        WHEN i.indexprs IS NOT NULL THEN 'contains an expression' WHEN NOT i.indisvalid THEN 'is not valid' ELSE '' END,
      NOT i.indimmediate)), '[]')
   FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisunique),
  EXISTS (SELECT """
    + _TRIGGERS
    + """),
  """
    + _FINGERPRINT
    + """
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = %(name)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
  AND CASE WHEN %(schema)s::text IS NULL THEN pg_table_is_visible(c.oid) ELSE n.nspname = %(schema)s END
"""
)
"""Temporary tables are left out, because a table of another user of a pooled connection would hide the real one."""

FINGERPRINT = f"SELECT {_FINGERPRINT} FROM pg_class c WHERE c.oid = to_regclass(%(table)s)"

SIMILAR = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE lower(c.relname) = lower(%(name)s) AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND CASE WHEN %(schema)s::text IS NULL THEN n.nspname = ANY (current_schemas(false))
      ELSE lower(n.nspname) = lower(%(schema)s::text) END
LIMIT 1
"""

CREATION_PROBLEM = """
SELECT CASE WHEN n.oid IS NULL THEN 'the schema does not exist'
  WHEN NOT has_schema_privilege(n.oid, 'CREATE') THEN 'the database user may not create tables in the schema'
  ELSE '' END
FROM (SELECT coalesce(%(schema)s::text, current_schema()::text) AS name) AS wanted
LEFT JOIN pg_namespace n ON n.nspname = wanted.name
"""

_KINDS = {
    "v": "is a view, which has no unique index",
    "m": "is a materialized view, which cannot be written",
    "f": "is a foreign table, which has no unique index",
}
_TYPES: Mapping[str, ColumnType] = {
    "bool": ColumnType(kind="boolean"),
    "int2": ColumnType(kind="integer", bits=16),
    "int4": ColumnType(kind="integer", bits=32),
    "int8": ColumnType(kind="integer", bits=64),
    "float4": ColumnType(kind="float", bits=32),
    "float8": ColumnType(kind="float", bits=64),
    "text": ColumnType(kind="text"),
    "citext": ColumnType(kind="text"),
    "enum": ColumnType(),
    "date": ColumnType(kind="date"),
    "json": ColumnType(kind="json"),
    "jsonb": ColumnType(kind="json", unique_names=True),
    "uuid": ColumnType(kind="uuid"),
    "bytea": ColumnType(pattern=r"\\x(?:[0-9A-Fa-f]{2})*"),
    **dict.fromkeys(("bit", "varbit"), ColumnType(pattern=r"[01]+")),
    **dict.fromkeys(
        ("inet", "cidr"),
        ColumnType(pattern=r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f.:]*:[0-9A-Fa-f.:]*)(?:/[0-9]{1,3})?"),
    ),
    "macaddr": ColumnType(pattern=r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}"),
    "money": ColumnType(problem="which depends on the language of the server; use numeric"),
    "name": ColumnType(problem="which cuts long values; use text"),
    "char": ColumnType(problem="which cuts all characters after the first; use text"),
}
"""By the name of the type; those with a length or precision are in ``_column_type``. No others keep all values."""
_UNKNOWN = ColumnType(problem="which may change values; use text")

_TIMES: Mapping[str, tuple[Kind, bool]] = {
    "timestamp": ("timestamp", True),
    "timestamptz": ("timestamp", False),
    "time": ("time", True),
    "timetz": ("time", False),
}
"""Types with a number of digits of the seconds: the kind, and whether the time zone is dropped."""
_UNIT_BITS: Mapping[Unit, int] = {"year": 2, "month": 1, "day": 3, "hour": 10, "minute": 11, "second": 12}
"""The bits of the fields in the modifier of an interval; all are set if it is not limited."""


def read_layout(row: Sequence[Any], name: str, label: str) -> Layout:
    """Return the layout that a row of ``DESCRIBE`` contains."""
    schema, kind, persistence, has_usage, may_stage, may_delete, policies, columns, indexes, triggers, fingerprint = row
    missing_policies = frozenset[str]()
    if policies is not None and "*" not in policies:
        commands = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}
        missing_policies = frozenset(command for letter, command in commands.items() if letter not in policies)
    columns_by_name = {column.name: column for column in map(_column, columns)}
    everywhere = frozenset.intersection(*(column.missing_rights for column in columns_by_name.values()), _ALL_RIGHTS)
    return Layout(
        schema=schema,
        name=name,
        label=label,
        columns=columns_by_name,
        indexes=tuple(
            UniqueIndex(name, frozenset(index_columns), problem, is_deferrable)
            for name, index_columns, problem, is_deferrable in indexes
        ),
        problem=_KINDS.get(kind, "") if has_usage else "the database user may not use its schema",
        missing_rights=everywhere | (frozenset() if may_delete else {"DELETE"}),
        missing_policies=missing_policies,
        may_stage=may_stage,
        must_stage=policies is not None,
        has_triggers=triggers,
        fingerprint=fingerprint or "",
        warning=f"table {label} is unlogged: a crash of the server deletes its rows" if persistence == "u" else "",
    )


_ALL_RIGHTS = frozenset({"SELECT", "INSERT", "UPDATE"})


def _column(row: Sequence[Any]) -> Column:
    name, declared, type_name, modifier, is_array, required, is_identity, is_generated, rights, sequence, is_loose = row
    column_type = _column_type(type_name, modifier)
    written_by = "is computed by the database (GENERATED)" if is_generated else ""
    if is_identity:
        written_by = "is numbered by the database (GENERATED ALWAYS AS IDENTITY)"
    return Column(
        name=name,
        declared=declared,
        type=ColumnType(kind="array", item=column_type) if is_array else column_type,
        nullable=not required,
        written_by=written_by,
        missing_rights=frozenset(rights),
        missing_sequence=sequence or "",
        merges_texts=is_loose or type_name in ("citext", "bpchar"),
    )


def _column_type(name: str, modifier: int) -> ColumnType:
    """Return the type of a column; ``modifier`` contains a length, or precision and scale."""
    if name in ("varchar", "bpchar"):
        return ColumnType(kind="text", max_chars=modifier - 4 if modifier >= 4 else None, is_padded=name == "bpchar")
    if name == "numeric":
        if modifier < 4:
            return ColumnType(kind="number")
        scale = (modifier - 4) & 0x7FF
        return ColumnType(
            kind="number", precision=((modifier - 4) >> 16) & 0xFFFF, scale=scale - 0x800 if scale >= 0x400 else scale
        )
    if name in _TIMES:
        kind, drops_zone = _TIMES[name]
        fraction = modifier if modifier >= 0 else MAX_FRACTION
        return ColumnType(kind=kind, drops_zone=drops_zone, needs_zone=not drops_zone, fraction=fraction)
    if name == "interval":
        fields, fraction = (modifier >> 16) & 0x7FFF, modifier & 0xFFFF
        units = [unit for unit, bit in _UNIT_BITS.items() if fields >> bit & 1]
        return ColumnType(kind="interval", fraction=min(fraction, MAX_FRACTION), unit=units[-1])
    return _TYPES.get(name, _UNKNOWN)
