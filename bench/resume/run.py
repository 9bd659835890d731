"""Runs of `score` that are killed at random moments and resumed: the rewards must be those of one run, byte by byte.

    cargo build --release --bin reward-sidecar
    python bench/resume/run.py

Each form of the input (plain, gzip, zstd, Parquet) and of the output (plain, gzip, zstd) is scored once as a whole, and once
in pieces: a run is ended as soon as it has written a random number of bytes, by SIGKILL and SIGINT in turn, and the same
command goes on. Compressed rewards are compared by their text. Needs the programs gzip and zstd, and pyarrow for Parquet;
a form whose tool is not there is named and left out. The model is a random one of 0.1 MB: nothing here depends on the model.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PARTIAL = ".partial"


def write_rows(path: Path, rows: int, draw: random.Random) -> None:
    """Rollouts of 1 to 15 ids each; one in a thousand has an id that the model's vocabulary does not have."""
    with path.open("w") as file:
        for number in range(rows):
            ids = [draw.randrange(211) for _ in range(draw.randint(1, 15))]
            if number % 1000 == 999:
                ids[0] = 211
            file.write(json.dumps({"id": f"r{number}", "input_ids": ids}) + "\n")


def head(path: Path, rows: int, target: Path) -> None:
    with path.open() as source, target.open("w") as file:
        file.writelines(line for _, line in zip(range(rows), source))


def converted(path: Path, form: str) -> Path:
    """The rollouts in another form, beside the plain file."""
    target = path.with_name(f"{path.name}.{form}") if form != "parquet" else path.with_suffix(".parquet")
    if form == "parquet":
        import pyarrow
        import pyarrow.parquet

        rows = [json.loads(line) for line in path.read_text().splitlines()]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), target)
    else:
        with target.open("wb") as file:
            subprocess.run(["gzip" if form == "gz" else "zstd", "-c", path], stdout=file, check=True)
    return target


def text_of(path: Path) -> bytes:
    """A rewards file's lines."""
    program = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    return path.read_bytes() if program is None else subprocess.check_output([program, "-dc", path])


class Runs:
    """The command that is run again and again."""

    def __init__(self, binary: Path, model: Path, draw: random.Random) -> None:
        self.binary, self.model, self.draw = binary, model, draw

    def start(self, source: Path, target: Path, *more: str) -> subprocess.Popen[str]:
        command = [self.binary, "score", "--model", self.model, "--weights", "attribute-0=1", "--log", "error"]
        return subprocess.Popen(
            [*command, "--input", source, "--output", target, *more], stderr=subprocess.PIPE, text=True
        )

    def whole(self, source: Path, target: Path) -> float:
        """One run from the first row to the last; returns its seconds."""
        begun = time.perf_counter()
        finish(self.start(source, target))
        return time.perf_counter() - begun

    def in_pieces(self, source: Path, target: Path, kills: int, expected_bytes: int) -> list[str]:
        """As many runs as it takes; returns how each but the last was ended, and at which byte."""
        partial = target.with_name(target.name + PARTIAL)
        moments = sorted(self.draw.randrange(1, expected_bytes) for _ in range(kills))
        ends = []
        for number, moment in enumerate(moments):
            process = self.start(source, target, "--resume")
            while process.poll() is None and size(partial) < moment:
                time.sleep(0.001)
            sent = signal.SIGKILL if number % 2 == 0 else signal.SIGINT
            process.send_signal(sent)
            said = process.communicate()[1]
            # SIGINT ends a run that has only just begun as it ends any program.
            if process.returncode not in (-signal.SIGKILL, -signal.SIGINT, 128 + signal.SIGINT):
                raise SystemExit(f"{sent.name} at byte {moment}: the run had ended with {process.returncode}\n{said}")
            ends.append(f"{sent.name} at {size(partial) / expected_bytes:.0%}")
        said = finish(self.start(source, target, "--resume"))
        if "were kept from an earlier run" not in said:
            raise SystemExit(f"the last run kept nothing\n{said}")
        if partial.exists():
            raise SystemExit(f"{partial} is still there")
        return ends


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def finish(process: subprocess.Popen[str]) -> str:
    """Waits for a run's end; returns what it said."""
    said = process.communicate()[1]
    # 1: some rows were rejected, as they should be.
    if process.returncode not in (0, 1):
        raise SystemExit(f"score ended with {process.returncode}\n{said}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/reward-sidecar")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "tests/fixtures/hf/llama3-sharded")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the plain file (default: %(default)s)")
    parser.add_argument("--other-rows", type=int, default=20_000, help="rows in the other forms (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=5, help="runs that are killed (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    draw = random.Random(options.seed)
    runs = Runs(options.binary, options.model, draw)

    forms = [("", ""), ("gz", ""), ("zst", ""), ("parquet", ""), ("", "gz"), ("", "zst")]
    missing = {
        form
        for form, there in {
            "gz": shutil.which("gzip"),
            "zst": shutil.which("zstd"),
            "parquet": importlib.util.find_spec("pyarrow"),
        }.items()
        if not there
    }
    with tempfile.TemporaryDirectory(prefix="resume-") as name:
        folder = Path(name)
        plain, short = folder / "rollouts.jsonl", folder / "short.jsonl"
        write_rows(plain, options.rows, draw)
        head(plain, options.other_rows, short)
        for read, written in forms:
            title = f"{read or 'plain'} in, {written or 'plain'} out"
            if left_out := {read, written} & missing:
                print(f"{title}: left out, there is no tool for {', '.join(sorted(left_out))}")
                continue
            source = short if read or written else plain
            source = converted(source, read) if read else source
            ending = f".{written}" if written else ""
            once, pieces = folder / f"once.jsonl{ending}", folder / f"pieces.jsonl{ending}"
            seconds = runs.whole(source, once)
            expected = text_of(once)
            ends = runs.in_pieces(source, pieces, options.kills, len(expected))
            rows = expected.count(b"\n")
            same = text_of(pieces) == expected
            print(f"{title}: {rows} rows, {seconds:.1f} s in one run; {', '.join(ends)}: {'the same' if same else 'NOT the same'}")
            if not same:
                sys.exit(1)
            pieces.unlink()


if __name__ == "__main__":
    main()
