"""Print which share of all branches the tests took, and exit with 1 below 90%; for `make test`, after coverage ran.

The figure of `coverage report` mixes lines and branches, and lines are the more: it hides branches that no test takes.
"""

import argparse
import json
import subprocess
import sys

LEAST = 90.0


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    command = [sys.executable, "-m", "coverage", "json", "-q", "--fail-under", "0", "-o", "-"]
    totals = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)["totals"]
    taken, branches = totals["covered_branches"], totals["num_branches"]
    share = 100 * taken / max(branches, 1)
    print(f"branches: {taken} of {branches} taken, {share:.1f}%; at least {LEAST:g}% are asked for")
    return int(share < LEAST)


if __name__ == "__main__":
    sys.exit(main())
