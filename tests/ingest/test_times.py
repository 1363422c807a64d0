"""Times in every unit, zone and form against Python's integers and datetimes."""

import random
import zoneinfo
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import UserError
from core.settings import validate
from pipeline.ingest.clickstream import ClickstreamSourceSettings
from pipeline.ingest.times import to_milliseconds

COLUMNS = {"session_id": "s", "item_id": "i", "timestamp": "t"}
PER_SECOND = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}
FIRST, LAST = 662_688_000, 4_102_444_800
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ROWS = 300


def parquet_log(folder, times: pa.Array):
    size = len(times)
    path = folder / "a.parquet"
    pq.write_table(pa.table({"s": range(size), "i": range(size), "t": times}), path)
    return path


def text_log(write, texts):
    rows = [f"{n}\t{n}\t{text}" for n, text in enumerate(texts)]
    return write("a.csv", "s\ti\tt\n" + "\n".join(rows) + "\n")


def read(run, path, **tree):
    """Milliseconds by row, and the result."""
    result = run("sessions", path, columns=COLUMNS, **tree)
    milliseconds = result.table["timestamp"].cast(pa.int64()).to_pylist()
    return dict(zip(result.table["item_id"].to_pylist(), milliseconds, strict=True)), result


def milliseconds_of(time: datetime) -> int:
    return (time - EPOCH) // timedelta(milliseconds=1)


def instants(seed, count=ROWS):
    """Times of 1991 to 2099, in nanoseconds."""
    draw = random.Random(seed)
    return [draw.randrange(FIRST * 10**9, LAST * 10**9) for _ in range(count)]


ZONES = [None, "UTC", "+05:30", "-03:00", "+0545", "America/New_York", "Europe/Berlin", "Etc/GMT+3"]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit", PER_SECOND)
def test_a_timestamp_with_a_zone_is_an_instant(run, tmp_path, unit, zone):
    # Among them the hours that come twice and not at all in New York and Berlin.
    days = (11, 7), (10, 31), (3, 14), (3, 28)
    odd = [datetime(2021, *day, hour, 30, tzinfo=UTC) for day in days for hour in range(9)]
    whole = [at // (10**9 // PER_SECOND[unit]) for at in instants(f"{unit}{zone}")]
    whole += [milliseconds_of(time) * PER_SECOND[unit] // 1000 for time in odd]
    times = pa.array([*whole, None], pa.timestamp(unit, zone))
    for how in (times, times.dictionary_encode()):
        milliseconds, result = read(run, parquet_log(tmp_path, how))
        assert milliseconds == {n: at * 1000 // PER_SECOND[unit] for n, at in enumerate(whole)}
        assert result.reasons == [(len(whole) + 1, "t: missing")]


def test_dates_are_their_midnights(run, tmp_path):
    days = [at // (86400 * 10**9) for at in instants(1)]
    dates = [date(1970, 1, 1) + timedelta(day) for day in days]
    for kind in (pa.date32(), pa.date64()):
        milliseconds, _ = read(run, parquet_log(tmp_path, pa.array(dates, kind)))
        assert milliseconds == {n: day * 86_400_000 for n, day in enumerate(days)}


@pytest.mark.parametrize("unit", PER_SECOND)
@pytest.mark.parametrize("kind", ["text", "integer", "uint64", "float", "decimal"])
@pytest.mark.parametrize("named", [True, False])
def test_unix_times_of_every_unit(run, write, tmp_path, unit, kind, named):
    whole = [at // (10**9 // PER_SECOND[unit]) for at in instants(f"{unit}{kind}")]
    if kind == "text":
        path = text_log(write, whole)
    else:
        types = {"integer": pa.int64(), "uint64": pa.uint64(), "decimal": pa.decimal128(20, 0)}
        kinds = {"decimal": Decimal, "float": float}
        values = [kinds.get(kind, int)(at) for at in whole]
        path = parquet_log(tmp_path, pa.array(values, types.get(kind)))
    tree = {"time_format": f"unix_{unit}"} if named else {}
    milliseconds, result = read(run, path, **tree)
    assert result.manifest["time_format"] == f"unix_{unit}"
    expected = {n: at * 1000 // PER_SECOND[unit] for n, at in enumerate(whole)}
    if kind == "float":
        assert milliseconds.keys() == expected.keys()
        assert all(abs(milliseconds[n] - expected[n]) <= 1 for n in expected)
    else:
        assert milliseconds == expected


FORMS = [
    "%Y-%m-%dT%H:%M:%S",
    "%d/%b/%Y:%H:%M:%S %z",
    "%a, %d %b %Y %H:%M:%S %z",
    "%m/%d/%Y %I:%M:%S %p",
    "%A %d %B %Y %H:%M",
    "%d.%m.%Y %H:%M:%S,%f",
    "%Y%m%d%H%M%S%f",
    "%Y-%j %H:%M",
    "%y%m%d%H",
    "%y%m%d%H%M%S",
    "[%d/%b/%Y:%T %z]",
    "%D %R",
    "%F %T.%f%z",
    "%d%m%Y",
    "%H:%M:%S %d-%b-%y",
    "%Y-%m-%d %H:%M:%S UTC%z",
    "%Y-%m-%d at %I o'clock %p 100%%",
]


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_ones_own(run, write, form):
    draw = random.Random(form)
    long = form.replace("%T", "%H:%M:%S").replace("%D", "%m/%d/%y").replace("%R", "%H:%M")
    long = long.replace("%F", "%Y-%m-%d")
    texts, expected = [], {}
    for n, at in enumerate(instants(form)):
        offset = timezone(timedelta(minutes=draw.choice([0, 330, -210, 60, 765, -720])))
        zone = offset if "%z" in form else UTC
        year = 2050 if "%y" in long else 2099
        time = EPOCH + timedelta(microseconds=at // 1000)
        time = time.replace(day=min(time.day, 28), year=draw.randrange(1991, year))
        text = time.astimezone(zone).strftime(long)
        text = draw.choice([text, text.lower(), text.upper(), f"  {text} "])
        if "T" not in form and draw.random() < 0.2:
            text = text.replace(" 0", " ") if " %d" in form else text
        texts.append(text)
        parsed = datetime.strptime(text.strip(), long)
        parsed = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        expected[n] = milliseconds_of(parsed)
    tree = {"time_format": form, "quote": "", "separator": "tab"}
    milliseconds, result = read(run, text_log(write, [*texts, "noon"]), **tree)
    assert milliseconds == expected
    assert result.reasons[0][1] == f"t: not a time as {form} (setting time_format): 'noon'"
    assert result.manifest["resolved"]["time_format"] == form


@pytest.mark.parametrize(
    "text",
    [
        "31/Feb/2021:10:00:00 +0000",
        "01/Abc/2021:10:00:00 +0000",
        "01/Jan/2021:24:00:00 +0000",
        "01/Jan/2021:23:60:00 +0000",
        "00/Jan/2021:23:00:00 +0000",
        "01/Jan/2021:23:00:00 +2500",
        "01/Jan/2021:23:00:00",
        "01/Jan/2021:23:00:00 +0000 x",
        "29/Feb/2100:23:00:00 +0000",
        "1/Jan/21:23:00:00 +0000",
    ],
)
def test_times_that_do_not_exist_are_bad(text):
    values, bad, _ = to_milliseconds(pa.array([text, None]), "%d/%b/%Y:%H:%M:%S %z", None)
    assert bad.tolist() == [True, False] and values.null_count == 2


ISO = [
    ("%Y-%m-%dT%H:%M:%S", ""),
    ("%Y-%m-%d %H:%M:%S", "Z"),
    ("%Y-%m-%d %H:%M:%S.%f", ""),
    ("%Y-%m-%dt%H:%M:%S,%f", "z"),
    ("%Y-%m-%d", ""),
    ("%Y-%m-%d %H:%M", " UTC"),
    ("%Y-%m-%dT%H:%M:%S.%f", "+05:30"),
    ("%Y-%m-%d %H:%M:%S", " -0330"),
    ("%Y-%m-%d %H:%M:%S", "+09"),
    ("%Y%m%d", ""),
    ("%Y%m%dT%H%M%S", "Z"),
    ("%Y%m%d%H%M%S", ""),
    ("%Y%m%dT%H%M", "-05"),
]
OFFSETS = {"+05:30": 330, " -0330": -210, "+09": 540, "-05": -300}


@pytest.mark.parametrize("form, zone", ISO)
@pytest.mark.parametrize("named", [True, False])
def test_iso_8601_extended_and_basic(run, write, form, zone, named):
    texts, expected = [], {}
    for n, at in enumerate(instants(form + zone)):
        text = (EPOCH + timedelta(microseconds=at // 1000)).strftime(form)
        texts.append(text + zone)
        parsed = datetime.strptime(text, form).replace(tzinfo=UTC)
        expected[n] = milliseconds_of(parsed) - OFFSETS.get(zone, 0) * 60_000
    milliseconds, _ = read(run, text_log(write, texts), **({"time_format": "iso"} if named else {}))
    # Where no form was set, a zone may put the first hours of 1991 before it.
    assert milliseconds == {n: at for n, at in expected.items() if at >= FIRST * 1000}


WRITTEN = {
    "unix seconds": lambda t: int(t.timestamp()),
    "unix milliseconds": lambda t: int(t.timestamp() * 1000),
    "unix microseconds": lambda t: int(t.timestamp()) * 10**6,
    "unix nanoseconds": lambda t: int(t.timestamp()) * 10**9,
    "YYYYMMDD": lambda t: t.strftime("%Y%m%d"),
    "YYYYMMDDHH": lambda t: t.strftime("%Y%m%d%H"),
    "YYYYMMDDHHMM": lambda t: t.strftime("%Y%m%d%H%M"),
    "YYYYMMDDHHMMSS": lambda t: t.strftime("%Y%m%d%H%M%S"),
    "YYMMDD": lambda t: t.strftime("%y%m%d"),
    "YYMMDDHH": lambda t: t.strftime("%y%m%d%H"),
    "days of a spreadsheet": lambda t: t.timestamp() / 86400 + 25569,
    "hours": lambda t: int(t.timestamp() // 3600),
    "minutes": lambda t: int(t.timestamp() // 60),
    "seconds since the first": lambda t: int(t.timestamp()) % 100_000,
    "Julian days": lambda t: t.timestamp() / 86400 + 2440587.5,
    "ticks of .NET": lambda t: int(t.timestamp()) * 10**7 + 621355968000000000,
}
COARSE = timedelta(days=1)


def as_number(value):
    return value if isinstance(value, float) else int(value)


@pytest.mark.parametrize("year", [1996, 2009, 2014, 2019, 2021, 2025])
@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("kind", ["text", "number"])
def test_another_unit_is_never_taken_for_seconds(run, write, tmp_path, name, year, kind):
    """Of logs of 60 days, written in every way, none is read as of another time."""
    draw = random.Random(f"{name}{year}")
    start = datetime(year, draw.randrange(1, 11), 1, tzinfo=UTC)
    times = [start + timedelta(seconds=draw.randrange(60 * 86400)) for _ in range(ROWS)]
    written = [WRITTEN[name](time) for time in times]
    if kind == "text":
        path = text_log(write, written)
    else:
        path = parquet_log(tmp_path, pa.array([as_number(value) for value in written]))
    try:
        milliseconds, _ = read(run, path)
    except UserError as error:
        assert "time_format" in str(error) and "column 't' (setting columns.timestamp)" in str(
            error
        )
        assert not name.startswith("unix") and not name.startswith("YYYY")
        return
    assert len(milliseconds) == ROWS
    for n, at in milliseconds.items():
        assert abs(EPOCH + timedelta(milliseconds=at) - times[n]) < COARSE


def test_a_form_is_proposed(run, write):
    with pytest.raises(UserError, match="perhaps '%y%m%d%H'"):
        read(run, text_log(write, [f"191001{hour:02}" for hour in range(24)]))
    with pytest.raises(UserError, match=r"set time_format: '%d/%b/%Y:%H:%M:%S %z'"):
        read(run, text_log(write, ["01/Oct/2019:10:00:00 +0000"]))
    with pytest.raises(UserError, match="'%m/%d/%Y %H:%M' or '%d/%m/%Y %H:%M'"):
        read(run, text_log(write, ["01/02/2019 10:00"]))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_local_times_of_a_zone(run, write, tmp_path, zone):
    try:
        local = zoneinfo.ZoneInfo(zone)
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("no time zones on this machine")
    draw = random.Random(zone)
    days = [datetime(2021, m, d) for m, d in ((3, 14), (3, 28), (4, 4), (10, 3), (10, 31), (11, 7))]
    minutes = [*range(0, 240, 15), *(draw.randrange(-600, 600) for _ in range(50))]
    clocks = [day + timedelta(minutes=minute) for day in days for minute in minutes]
    expected, unreal = {}, []
    for n, clock in enumerate(clocks):
        at = clock.replace(tzinfo=local).astimezone(UTC)
        if at.astimezone(local).replace(tzinfo=None) != clock:
            unreal.append(n)
        else:
            expected[n] = milliseconds_of(at)
    form = "%d.%m.%Y %H:%M"
    own = text_log(write, [clock.strftime(form) for clock in clocks])
    assert read(run, own, time_format=form, time_zone=zone)[0] == expected
    iso = text_log(write, [clock.isoformat() for clock in clocks])
    assert read(run, iso, time_zone=zone)[0] == expected
    milliseconds, result = read(
        run, parquet_log(tmp_path, pa.array(clocks, pa.timestamp("us"))), time_zone=zone
    )
    assert milliseconds == expected and unreal
    assert [line - 1 for line, _ in result.reasons] == unreal
    zoned = text_log(write, [clock.isoformat() + "+01:00" for clock in clocks])
    milliseconds, _ = read(run, zoned, time_zone=zone)
    assert milliseconds == {
        n: milliseconds_of(c.replace(tzinfo=UTC)) - 3_600_000 for n, c in enumerate(clocks)
    }


def test_a_time_of_zero_is_set_aside_and_far_ones_are_named(run, write, capsys):
    start = 1_609_459_200
    times = [start + 60 * n for n in range(1000)]
    times[10], times[500], times[700] = 0, 1_000_000_000, 4_000_000_000
    path = text_log(write, times)
    milliseconds, result = read(run, path)
    assert len(milliseconds) == 999
    [(line, reason)] = result.reasons
    assert (line, reason[:41]) == (12, "t: time before 1991-01-01 or from 2100-01")
    said = " ".join("".join(capsys.readouterr()).split())
    apart = result.manifest["times_apart"]
    assert apart["rows"] == 2 and apart["bulk"] == ["2021-01", "2021-01"]
    assert [(one["line"], one["month"]) for one in apart["first"]] == [
        (502, "2001-09"),
        (702, "2096-10"),
    ]
    assert "times more than a year from all others (2)" in said and f"{path}:502" in said
    milliseconds, result = read(run, path, first_time="2020-06-01", last_time="2022-01-01")
    assert len(milliseconds) == 997 and "times_apart" not in result.manifest
    milliseconds, _ = read(run, path, first_time="1970-01-01")
    assert milliseconds[10] == 0


def test_a_log_that_begins_with_the_epoch_keeps_it(run, write):
    milliseconds, _ = read(run, text_log(write, range(5)), time_format="unix_s")
    assert milliseconds == {n: 1000 * n for n in range(5)}


def test_missing_times_at_the_beginning_do_not_decide(run, write):
    times = [""] * 200 + [str(1_600_000_000_000 + n) for n in range(2000)]
    milliseconds, result = read(run, text_log(write, times), block_bytes=400)
    assert len(milliseconds) == 2000 and result.manifest["time_format"] == "unix_ms"


@pytest.mark.parametrize(
    "tree, words",
    [
        ({"time_format": "seconds"}, "expected auto, unix_s"),
        ({"time_format": "%Y-%m"}, "expected a whole date"),
        ({"time_format": "%Y-%m-%d %Q"}, "%Q: no such directive"),
        ({"time_format": "%Y-%m-%d %Y"}, "a directive is there twice"),
        ({"time_format": "%Y-%m-%d %I"}, "belong together"),
        ({"time_zone": "Mars/Olympus"}, "no such zone"),
        ({"first_time": "yesterday"}, "first_time"),
        ({"last_time": "auto"}, "last_time"),
        ({"decimal": ",", "thousands": ","}, "decimal and thousands are both ','"),
    ],
)
def test_settings_of_times_that_make_no_sense(tree, words):
    with pytest.raises(UserError) as failed:
        validate(ClickstreamSourceSettings, tree, "test")
    assert words in str(failed.value)


@pytest.mark.parametrize("end", ["", "Z", ".123", ",123Z"])
@pytest.mark.parametrize("sliced", [0, 3])
def test_iso_times_that_look_alike(end, sliced):
    """One odd text among times of one length changes none of the others."""
    good = [
        f"20{n:02}-0{1 + n % 9}-1{n % 10} 0{n % 10}:1{n % 10}:2{n % 10}{end}" for n in range(40)
    ]
    expected = [
        milliseconds_of(datetime.fromisoformat(g.rstrip("Z").replace(",", ".")).replace(tzinfo=UTC))
        for g in good
    ]
    for odd in (
        "2021-02-30 10:00:00",
        "2021-02-3x 10:00:00",
        "2021-13-01T10:00:00",
        "2021-02-20 24:00:00",
        "2021/02/20 10:00:00",
        "20210220T10:00:00..",
        "20é1-02-20 10:00:0",
    ):
        texts = [*good[:20], odd + end, *good[20:]]
        values, bad, _ = to_milliseconds(pa.array(texts)[sliced:], "iso", None)
        assert np.flatnonzero(bad).tolist() == [20 - sliced]
        assert values.drop_null().to_pylist() == expected[sliced:]
    values, bad, _ = to_milliseconds(pa.array(good)[sliced:], "iso", None)
    assert values.to_pylist() == expected[sliced:] and not bad.any()


def test_millions_of_times_take_seconds():
    import time

    texts = pa.array(np.datetime_as_string(np.arange(200_000).astype("datetime64[s]") + 10**9))
    begin = time.process_time()
    values, bad, _ = to_milliseconds(texts, "%Y-%m-%dT%H:%M:%S", None)
    assert not bad.any() and values[5].as_py() == (10**9 + 5) * 1000
    assert time.process_time() - begin < 2
