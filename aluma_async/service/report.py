"""``Report``: what a person sees of one run: its log, and its progress as a panel or a line now and then."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import msgspec

from aluma_async.config import ServiceConfig
from aluma_async.events import Event
from aluma_async.models import Summary
from aluma_async.service.logs import Log
from aluma_async.service.summary import closing_lines, progress_line
from aluma_async.service.tally import Tally
