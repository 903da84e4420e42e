"""Generated pairs of texts: dates as people write them, and the same dates in ISO 8601."""

import datetime
from typing import Any

import numpy as np
from ml_collections import ConfigDict

FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2049, 12, 31)
TRAIN, TEST = 12_000, 2_000
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# d, dd: day; th: its ordinal; m, mm: number of the month; mon, month, Month: its name; y: year; wd, Weekday: day of the
# week. A dot comes after the day, a slash after the month, so that both orders can be told apart.
FORMATS = (
    *("{d} {Month} {y}", "{d} {mon} {y}", "{th} {Month} {y}", "{th} of {Month} {y}", "the {th} of {month}, {y}"),
    *("{Month} {d}, {y}", "{mon} {d}, {y}", "{Month} {th}, {y}", "{month} {d} {y}", "{MON} {d} {y}"),
    *("{Weekday}, {d} {Month} {y}", "{wd} {d} {mon} {y}", "{Weekday}, {Month} {d}, {y}", "{wd}, {mon} {th}, {y}"),
    *("{d}.{m}.{y}", "{dd}.{mm}.{y}", "{m}/{d}/{y}", "{mm}/{dd}/{y}", "{y}, {Month} {d}", "{y} {mon} {dd}"),
)


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """14,000 different dates from 1900 to 2049, each in one of 20 ways of writing: 12,000 to train, 2,000 to test.

    x is the date as it is written, caption the ISO form YYYY-MM-DD, both as characters. No date of the test split is in
    the training split. The draws come from a fixed seed; the function ignores its arguments.
    """
    random = np.random.RandomState(0)
    days = random.permutation((LAST - FIRST).days + 1)[: TRAIN + TEST]
    dates = [FIRST + datetime.timedelta(int(day)) for day in days]
    forms = random.randint(len(FORMATS), size=len(dates))
    x = [_written(date, FORMATS[form]) for date, form in zip(dates, forms, strict=True)]
    caption = [date.isoformat() for date in dates]
    return {
        "kind": "tokens",
        "levels": {"x": "characters", "caption": "characters"},
        "x_train": x[:TRAIN],
        "x_test": x[TRAIN:],
        "caption_train": caption[:TRAIN],
        "caption_test": caption[TRAIN:],
    }


def _written(date: datetime.date, form: str) -> str:
    month, weekday = MONTHS[date.month - 1], DAYS[date.weekday()]
    end = "th" if 11 <= date.day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(date.day % 10, "th")
    return form.format(
        d=date.day,
        dd=f"{date.day:02}",
        th=f"{date.day}{end}",
        m=date.month,
        mm=f"{date.month:02}",
        mon=month[:3],
        MON=month[:3].upper(),
        month=month.lower(),
        Month=month,
        wd=weekday[:3],
        Weekday=weekday,
        y=date.year,
    )
