"""Which texts are schedules, so that one that never comes, or that cron would not take, is told of before it counts."""

from __future__ import annotations

from audiencesync.schedule.cron import check_cron
from audiencesync.schedule.words import parse_duration

WANTED = 'write every 2h, every 2h to 3h, cron "0 */3 * * *" or manual'


def check_schedule(text: object) -> str:
    """Return a schedule as written, or raise ValueError: `every 2h to 3h`, `cron "0 */3 * * *"`, `manual`.

    `cron @daily` and its like become the five fields that they stand for.
    """
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not a schedule; {WANTED}")  # noqa: TRY004 - pydantic turns ValueErrors into problems
    words = text.split()
    if words == ["manual"]:
        return "manual"
    if words[:1] == ["every"] and (len(words) == 2 or (len(words) == 4 and words[2] == "to")):
        spans = [parse_duration(word) for word in words[1::2]]
        if not spans[0] or spans != sorted(spans):
            raise ValueError(f"{text!r}: an interval is longer than nothing, and the second not shorter than the first")
        return " ".join(words)
    if words[:1] == ["cron"]:
        fields = text.strip()[4:].strip().strip("\"'").split()
        return f'cron "{check_cron(fields, text)}"'
    raise ValueError(f"{text!r} is not a schedule; {WANTED}")
