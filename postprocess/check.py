"""A check of the study on itself, and how its outcome reads."""

import dataclasses

from document import Text, join, number, say


@dataclasses.dataclass(frozen=True)
class Check:
    name: Text
    looked_at: int
    failures: list[Text]
    left_out: tuple[Text, ...] = ()  # what was seen and not judged

    @property
    def passed(self) -> bool | None:
        return None if not self.looked_at else not self.failures


def outcome(check: Check) -> Text:
    if check.passed is None:
        return say("nothing to look at: {it}", it=None)
    if check.passed:
        text = say("passed ({n} looked at)", n=number(check.looked_at, "checks.py", 0))
    else:
        text = say("**FAILED**: {what}", what=join(check.failures, "; ", "; "))
    return text + say("; not judged: {what}", what=join(check.left_out, "; ", "; ")) if check.left_out else text
