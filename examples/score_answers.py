"""Answers and human ratings as JSONL, from data that a Python package ships: `python examples/score_answers.py FILE`.

The source distribution of vaderSentiment (MIT licence) holds 3,708 sentences of product reviews with the mean of twenty
ratings each, from -4 to 4. The product's number stands for the item, the sentence for the response, and five ranges of
the rating for scores from 0 to 4. Then:

    python launch.py train --config configs/neighbours/short_answers.yaml
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "vaderSentiment==3.3.2"
RESOURCES = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS = "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"
BOUNDS = (-1.5, -0.5, 0.5, 1.5)


def download(folder: Path) -> Path:
    """Returns the package's source distribution, brought by pip."""
    words = ["download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), PACKAGE]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.tar.gz"))


def answers_of(archive: Path) -> list[dict[str, object]]:
    """Returns item, response and score of every sentence, in an order that mixes the products."""
    with tarfile.open(archive) as package, tarfile.open(fileobj=_member(package, RESOURCES)) as resources:
        lines = _member(resources, RATINGS).read().decode("utf-8-sig", errors="replace").splitlines()
    answers = []
    for line in lines:
        number, rating, sentence = line.split("\t", maxsplit=2)
        score = sum(float(rating) >= bound for bound in BOUNDS)
        answers.append({"item": f"product {number.split('_')[0]}", "response": sentence.strip(), "score": score})
    # Neighbours are of one review; every 37th mixes them, the same way each time.
    return [answer for start in range(37) for answer in answers[start::37]]


def _member(archive: tarfile.TarFile, name: str) -> io.BytesIO:
    file = archive.extractfile(name)
    if file is None:
        raise FileNotFoundError(f"{name} is no file of the archive")
    return io.BytesIO(file.read())


def main(path: Path, archive: Path | None = None) -> int:
    """Writes the file, prints how many answers have each score, and returns how many there are."""
    with tempfile.TemporaryDirectory() as folder:
        answers = answers_of(archive or download(Path(folder)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(answer) + "\n" for answer in answers), encoding="utf-8")
    counts = [sum(answer["score"] == score for answer in answers) for score in range(len(BOUNDS) + 1)]
    print(f"{path}: {len(answers):,} answers; with scores 0 to {len(BOUNDS)}: {', '.join(map(str, counts))}")
    return len(answers)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/answers.jsonl"))
