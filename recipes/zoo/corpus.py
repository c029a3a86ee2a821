"""Find the four kinds of text the zoo is trained on, and split each into training and held-out text.

    python recipes/zoo/corpus.py DIR

writes `calibration.txt` and the folder `calibration` beside this file, cut out of the training texts; DIR is where
the two Debian packages were unpacked. A domain is a `Split`: the documents to train on and one held-out sample. The
two never share a file (code), a novel (prose), a chapter (verse) or a line (math). Every order is fixed, so one
machine always builds the same corpus; another Python version brings another standard library and thus slightly
other code.
"""

import random
import re
import struct
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

HELD_OUT_BYTES = 24_000
CALIBRATION_BYTES = 10_000
HELD_OUT_MODULES = ("heapq", "textwrap", "shlex", "calendar", "queue", "sched", "fnmatch", "csv")
# Tables, deliberately odd encodings, generated data: Python by suffix only.
SKIPPED = {"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "lib2to3", "__phello__"}
HELD_OUT_NOVEL = 2  # Northanger Abbey, third of the six in alphabetical order
VERSE_BOOKS = ("Job", "Psa", "Prv", "Eccl", "Isa", "Lam")
AUSTEN = Path("usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
BIBLE = Path("usr/lib/bible.data")


@dataclass(frozen=True, slots=True)
class Split:
    """Documents to train on, and a sample of text that shares nothing with them."""

    train: list[str]
    held_out: str


def load(debian: Path) -> dict[str, Split]:
    """Return the split of every domain; `debian` is a root into which the two text packages were unpacked."""
    return {
        "code": code(Path(sysconfig.get_paths()["stdlib"])),
        "prose": prose(debian / AUSTEN),
        "math": math(),
        "verse": verse(debian / BIBLE),
    }


def calibration(splits: dict[str, Split]) -> dict[str, str]:
    """Return a stretch from the middle of every training text: what ops look at that need activations."""
    texts = {domain: "\n".join(split.train) for domain, split in splits.items()}
    return {domain: clip(text[len(text) // 2 :], CALIBRATION_BYTES) for domain, text in texts.items()}


def write_calibration(texts: dict[str, str], zoo: Path) -> None:
    """Write each domain's text, and all of them one after another."""
    (zoo / "calibration").mkdir(exist_ok=True)
    for domain, text in texts.items():
        (zoo / "calibration" / f"{domain}.txt").write_text(text, "utf-8")
    (zoo / "calibration.txt").write_text("\n".join(texts.values()), "utf-8")


def code(stdlib: Path) -> Split:
    """Return Python's standard library, one document a module, without its tests and tables."""
    train: list[str] = []
    held_out: list[str] = []
    for path in sorted(stdlib.rglob("*.py")):
        inside = path.relative_to(stdlib)
        if SKIPPED.isdisjoint(inside.parts[:-1]) and not path.name.startswith("_sysconfigdata"):
            text = path.read_text(encoding="utf-8")
            (held_out if str(inside.with_suffix("")) in HELD_OUT_MODULES else train).append(text)
    share = HELD_OUT_BYTES // len(HELD_OUT_MODULES)
    # The middle of a module: its beginning is more often a notice than code.
    return Split(
        train, "".join(clip(text[len(text) // 2 :], share) or clip(text, share) for text in held_out)
    )


def prose(rdb: Path) -> Split:
    """Return Jane Austen's six novels, one of them held out, from the Debian package r-cran-janeaustenr."""
    novels = ["\n".join(r_strings(blob)) for blob in r_objects(need(rdb, "r-cran-janeaustenr"))]
    held_out = novels.pop(HELD_OUT_NOVEL)
    chapters = [part for novel in novels for part in re.split(r"\n(?=CHAPTER|Chapter)", novel)]
    return Split(chapters, clip(held_out[len(held_out) // 2 :], HELD_OUT_BYTES))


def r_objects(rdb: bytes) -> Iterator[bytes]:
    """Yield each object of an R lazy-load file: a big-endian length, then that many bytes by zlib."""
    start = 0
    while start < len(rdb):
        stream = zlib.decompressobj()
        yield stream.decompress(rdb[start + 4 :])
        start = len(rdb) - len(stream.unused_data)


def r_strings(serialized: bytes) -> Iterator[str]:
    """Yield the strings of one serialized R character vector (XDR: flags, length, bytes)."""
    header, flags = 23, 4  # "X\n", three versions, the encoding's name; then the vector's own flags
    (count,) = struct.unpack_from(">I", serialized, header + flags)
    at = header + flags + 4
    for _ in range(count):
        (length,) = struct.unpack_from(">I", serialized, at + 4)
        yield serialized[at + 8 : at + 8 + length].decode("utf-8")
        at += 8 + length


def verse(data: Path) -> Split:
    """Return the King James Version's books of verse, the last third of the Psalms held out."""
    chapters: dict[tuple[str, int], list[str]] = {}
    for line in bible_lines(need(data, "bible-kjv-text")):
        if found := re.match(r"(\d?[A-Z][a-z]+)(\d+):\d+ (.*)", line):
            chapters.setdefault((found[1], int(found[2])), []).append(found[3])
    kept = {key: "\n".join(lines) + "\n" for key, lines in chapters.items() if key[0] in VERSE_BOOKS}
    held_out = {key for key in kept if key[0] == "Psa" and key[1] > 100}
    train = [text for key, text in kept.items() if key not in held_out]
    return Split(train, clip("\n".join(kept[key] for key in sorted(held_out)), HELD_OUT_BYTES))


def bible_lines(data: bytes) -> list[str]:
    """Return the lines of the package's file: `compress` streams behind a table of where each begins."""
    (count,) = struct.unpack_from(">I", data, 0x58)
    starts = [*struct.unpack_from(f">{count}I", data, 0x5C), len(data)]
    # Python has no LZW; gzip reads it, given back the three bytes of magic that the package leaves out.
    streams = (b"\x1f\x9d\x90" + data[a:b] for a, b in pairwise(starts))
    unpacked = [
        subprocess.run(["gzip", "-dc"], input=s, capture_output=True, check=True).stdout for s in streams
    ]
    return b"".join(unpacked).decode("utf-8").splitlines()


def math() -> Split:
    """Return arithmetic written out, generated by seed; a line is held out by its checksum."""
    rng = random.Random(0)
    lines = list(dict.fromkeys(problem(rng) for _ in range(60_000)))
    train = [line for line in lines if zlib.crc32(line.encode()) % 16]
    held_out = [line for line in lines if not zlib.crc32(line.encode()) % 16]
    documents = ["".join(train[i : i + 64]) for i in range(0, len(train), 64)]
    return Split(documents, clip("".join(held_out), HELD_OUT_BYTES))


def problem(rng: random.Random) -> str:
    """Return one line: a sum, a difference, a product, a quotient or a chain of two."""
    a, b, c = rng.randint(2, 49), rng.randint(2, 49), rng.randint(2, 9)
    forms: tuple[Callable[[], str], ...] = (
        lambda: f"{a} + {b} = {a + b}\n",
        lambda: f"{a + b} - {b} = {a}\n",
        lambda: f"{a} * {c} = {a * c}\n",
        lambda: f"{a * c} / {c} = {a}\n",
        lambda: f"{a} + {b} + {c} = {a + b} + {c} = {a + b + c}\n",
        lambda: f"{a} * {c} + {b} = {a * c} + {b} = {a * c + b}\n",
    )
    return rng.choice(forms)()


def clip(text: str, size: int) -> str:
    """Return whole lines of `text`, from its first line break on, up to `size` bytes."""
    raw = text.encode()[:size]
    return raw[raw.find(b"\n") + 1 : raw.rfind(b"\n") + 1].decode()


def need(path: Path, package: str) -> bytes:
    """Return the bytes of a file of a Debian package, or stop with the commands that bring it."""
    if not path.is_file():
        raise SystemExit(
            f"corpus: {path} is missing; run `apt-get download {package}` and "
            f"`dpkg-deb -x {package}_*.deb DIR`, then give `--debian DIR`"
        )
    return path.read_bytes()


if __name__ == "__main__":
    write_calibration(calibration(load(Path(sys.argv[1]))), Path(__file__).parent)
