"""Where does clean guidance help? The study `guidance`: each kind of guidance at a small and at a large width.

python -m pipelines.study_guidance --scale cpu
"""

import sys
from collections.abc import Sequence

from pipelines import study


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m pipelines.study guidance` with the same options, and the same exit status."""
    return study.main(["guidance", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
