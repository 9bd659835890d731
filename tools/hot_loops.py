"""Looks at hot loops in a built binary: the linear layers' accumulators must stay in registers, and the softmax must use whole ones.

    python3 tools/hot_loops.py target/release/reward-sidecar

A loop is hot if it has nothing but a tile's multiplications in it: 24 on AVX-512 registers (12 rows by two registers) and
12 broadcasts of a row's inputs. The compiler keeps their accumulators in registers or it does not, and nothing else would tell: the results
are the same and the speed is halved. The attention's softmax is the function with several exponentials in AVX-512 registers. It finds the
greatest of a row of scores, four registers of them, by four maxima of whole registers, or by some forty of parts of them, which costs a
twentieth of attention's speed. Needs objdump, of binutils, and an x86-64 binary.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

LINE = re.compile(r"^\s+([0-9a-f]+):\s+(\S+)\s*(.*)$")
JUMP = re.compile(r"^j[a-z]+$")
# A tile's height, and its registers.
ROWS, REGISTERS = 12, 24
# Loads of weights, their widening, the loop's own counting, with some room. A loop of other work as well is longer.
MOST_INSTRUCTIONS = REGISTERS + ROWS + 16
KINDS = {
    "integers": re.compile(r"^vpdpwssd$"),
    "floats": re.compile(r"^vfmadd\d+ps$"),
    "pairs of bfloat16": re.compile(r"^vdpbf16ps$"),
}
# Integers of 8 and of 16 bits; float32 and bfloat16; rounded activations.
FEWEST = {"integers": 2, "floats": 4, "pairs of bfloat16": 1}
FUNCTION = re.compile(r"^[0-9a-f]+ <")
# The shift that puts an exponential's power of two into its place, of which the softmax has one for each register of a row, and more.
EXPONENTIAL = re.compile(r"^\s+[0-9a-f]+:\s+vpslld\s+\$0x17,%zmm")
MAXIMUM = re.compile(r"^\s+[0-9a-f]+:\s+vmaxps\s.*%zmm")
REGISTERS_OF_A_ROW = 4


@dataclass(eq=False)
class Function:
    exponentials: int = 0
    maxima: int = 0


def main() -> None:
    (binary,) = sys.argv[1:]
    command = ["objdump", "--disassemble", "--no-show-raw-insn", binary]
    found, spilled = Counter(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as objdump:
        assert objdump.stdout is not None
        recent: list[tuple[int, str, str]] = []
        function = Function()
        softmaxes: list[Function] = []
        for text in objdump.stdout:
            if FUNCTION.match(text):
                function = Function()
            function.exponentials += bool(EXPONENTIAL.match(text))
            function.maxima += bool(MAXIMUM.match(text))
            if function.exponentials == REGISTERS_OF_A_ROW and function not in softmaxes:
                softmaxes.append(function)
            line = LINE.match(text)
            if not line:
                continue
            address, name, operands = int(line[1], 16), line[2], line[3]
            recent = recent[-MOST_INSTRUCTIONS:] + [(address, name, operands)]
            if not JUMP.match(name):
                continue
            target = re.match(r"[0-9a-f]+", operands)
            start = int(target[0], 16) if target else address
            loop = [each for each in recent if each[0] >= start]
            # Forwards, or too long to be one of them.
            if start >= address or loop[0][0] != start:
                continue
            kind = kind_of(loop)
            if kind:
                found[kind] += 1
                spilled += [f"{kind} at {start:#x}: {name} {at}" for _, name, at in loop if "(%rsp" in at]
    print(", ".join(f"{found[kind]} loops of {kind}" for kind in KINDS))
    if spilled:
        sys.exit("operands on the stack:\n" + "\n".join(spilled))
    missing = [kind for kind in KINDS if found[kind] < FEWEST[kind]]
    if missing:
        sys.exit(f"not found, or not in registers: loops of {', '.join(missing)}")
    maxima = [softmax.maxima for softmax in softmaxes]
    print(f"maxima of whole registers in each softmax: {maxima}")
    if not maxima or min(maxima) < REGISTERS_OF_A_ROW:
        sys.exit("a softmax that finds the greatest score in parts of registers, or none at all")


def kind_of(loop: list[tuple[int, str, str]]) -> str | None:
    """What a loop multiplies, if that is all it does."""
    broadcasts = sum("broadcast" in name or "{1to16}" in operands for _, name, operands in loop)
    jumps = sum(bool(JUMP.match(name)) for _, name, _ in loop)
    for kind, pattern in KINDS.items():
        products = sum(bool(pattern.match(name)) and "%zmm" in operands for _, name, operands in loop)
        if products == REGISTERS and broadcasts >= ROWS and jumps == 1:
            return kind
    return None


if __name__ == "__main__":
    main()
