"""Fine-tunes on tasks of the Genome Understanding Evaluation and writes one table beside the published DNABERT-2 scores.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python jobs/gue.py --data s3://bucket/GUE --tasks all --output s3://bucket/gue --model zhihan1996/DNABERT-2-117M --num-workers 4

    python jobs/gue.py --data GUE --tasks prom_core_tata,mouse_3 --output gue --method lora --head linear     (this machine alone)

`--data` holds the published folders (EMP/H3, prom/prom_300_all, tf/0, mouse/0, virus/covid, splice/reconstructed) or folders named as the
tasks (emp_H3, tf_0, …), each with train.csv, dev.csv and test.csv. All further flags are those of `dnafeat finetune` and override the
published settings. Sent again, finished tasks are not trained again.
"""

import argparse
import sys

from dnafeat.cli.main import guarded
from dnafeat.cli.options import add_options, given
from dnafeat.cli.output import Output
from dnafeat.finetune.config import FinetuneConfig


def main() -> int:
    from dnafeat.cluster.session import stop_ray
    from dnafeat.finetune.gue import format_rows, run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder or s3:// prefix with the tasks")
    parser.add_argument("--tasks", default="all", help="names with commas, or all that are there (default)")
    add_options(parser, FinetuneConfig)
    options = parser.parse_args()
    output = Output()
    settings = {
        key: value for key, value in given(options, FinetuneConfig).items() if key not in ("train", "dev", "test", "output")
    }
    try:
        rows = run(options.data, options.tasks.split(","), options.output or "gue", settings, say=output.remark)
    finally:
        stop_ray()
    output.result(rows, format_rows, lists=True)
    return 0 if all("fault" not in row for row in rows) else 1


if __name__ == "__main__":
    sys.exit(guarded(main))
