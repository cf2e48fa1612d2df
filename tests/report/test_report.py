import re
from dataclasses import replace
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fre.datasets.samples import Sample
from fre.drawing.charts import Caption, number, score_histogram
from fre.errors import ImageError, OptionError, OutputError
from fre.evaluation.figures import Evaluation, ScoredImage
from fre.evaluation.metrics import auroc, average_precision, max_f1, wilson_interval
from fre.inference.training_images import OddImage
from fre.report.decision import Decision
from fre.report.page import Limits, ReportedModel, write_report
from fre.report.pictures import GalleryItem

THRESHOLD = 3.0
VOID = {"meta", "input", "br", "link", "img"}
SECTIONS = {"figures", "decisions", "scores", "curves", "model", "images"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what tests ask for."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "action", "srcset", "data"):
                self.urls.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)


def row(kind: str, index: int, score: float, masks: bool = True) -> ScoredImage:
    paths = (Path(f"truth/{kind}/{index:03}.png"),) if masks and kind != "good" else ()
    sample = Sample(Path(f"test/{kind}/{kind}-{index:03}.png"), kind, paths)
    return ScoredImage(sample, score, p_value=1 / (1 + max(score, 0)), anomalous=score >= THRESHOLD)


def evaluation(n_good: int = 20, n_defect: int = 30, masks: bool = True) -> Evaluation:
    """The first two good images raise an alarm, the first third of the defects is missed."""
    rows = [row("good", i, 3.5 + i if i < 2 else 2.5 * i / n_good) for i in range(n_good)]
    for i in range(n_defect):
        kind = ("scratch", "dent", "crack")[i % 3]
        rows.append(row(kind, i, 0.3 + i / n_defect if i < n_defect // 3 else 3.0 + i**1.5, masks))
    scores = np.array([r.score for r in rows])
    labels = np.array([not r.sample.good for r in rows])
    both = n_good > 0 and n_defect > 0
    pixels = masks and n_defect > 0
    intervals = {"aupimo": (0.2, 0.3)} if pixels and n_good else {}
    if pixels:
        intervals |= {"pixel_auroc": (0.94, 0.98), "pixel_f1": (0.4, 0.5), "aupro": (0.85, 0.9)}
    if both:
        intervals |= {"image_auroc": (0.7, 0.9), "image_aupr": (0.75, 0.95), "image_f1": (0.8, 1.0)}
    return Evaluation(
        image_auroc=auroc(scores, labels) if both else None,
        image_aupr=average_precision(scores, labels) if both else None,
        image_f1=max_f1(scores, labels)[0] if both else None,
        pixel_auroc=0.9567 if pixels else None,
        pixel_f1=0.4321 if pixels else None,
        aupro=0.8768 if pixels else None,
        aupimo=0.2346 if pixels and n_good else None,
        n_good=n_good,
        n_defect=n_defect,
        false_alarm_rate_observed=float((scores[~labels] >= THRESHOLD).mean()) if n_good else None,
        images_per_second=40.0,
        images=tuple(rows),
        intervals=intervals,
    )


def draw(scored: ScoredImage) -> GalleryItem:
    image = np.full((48, 64, 3), 128, np.uint8)
    mask = np.zeros((48, 64), np.bool_)
    mask[10:20, 30:50] = True
    anomaly_map = np.zeros((24, 32), np.float32)
    anomaly_map[5:10, 15:25] = scored.score
    return GalleryItem(image, anomaly_map, mask if scored.sample.masks else None)


def write(tmp_path: Path, judged: Evaluation, **changes: Any) -> tuple[str, Page]:
    options: dict[str, Any] = {
        "model_info": {"name": "part.onnx", "layers": ["a", "b"], "input_size": (256, 320)},
        "calibration_scores": np.sort(np.random.default_rng(1).normal(1, 1, 200)),
        "threshold": THRESHOLD,
        "false_alarm_rate": 0.02,
        "scale": (1.0, 6.0),
        "gallery": draw,
        "odd": (OddImage("flash.png", 9.27, "0" * 16), OddImage("dust.png", 6.5, "1" * 16)),
        "rates": ((0.01, 5.0), (0.02, THRESHOLD), (0.05, 1.0)),
    }
    file = tmp_path / "report.html"
    options |= changes
    decision = Decision(
        options.pop("threshold"),
        options.pop("false_alarm_rate"),
        options.pop("threshold_chosen", None),
        np.asarray(options.pop("calibration_scores"), np.float64),
        options.pop("odd"),
        options.pop("rates"),
        options.pop("expected_rate", None),
    )
    judged = replace(judged, notes=tuple(options.pop("notes", ())))
    model = ReportedModel(
        options.pop("model_info"), decision, options.pop("scale"), options.pop("gallery")
    )
    name, progress = options.pop("dataset_name", "parts"), options.pop("progress", None)
    write_report(file, model, name, judged, limits=Limits(**options), progress=progress)
    html = file.read_text("utf-8")
    return html, Page(html)


def test_every_section_is_there_and_the_page_is_well_formed(tmp_path: Path) -> None:
    began = datetime.now(timezone.utc)
    html, page = write(tmp_path, evaluation())
    assert html.startswith("<!DOCTYPE html>")
    assert set(page.ids) >= SECTIONS
    assert len(set(page.ids)) == len(page.ids), "ids are unique"
    for chart in ("histogram", "roc", "pr"):
        assert {f"{chart}-title", f"{chart}-desc"} <= set(page.ids)
    assert page.tags.count("figure") == 3 + 50
    assert "All 50 images" in page.text
    written = (began, datetime.now(timezone.utc))
    assert any(f"{moment:%Y-%m-%d %H:%M UTC}" in page.text for moment in written)


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    html, page = write(tmp_path, evaluation())
    assert all(url.startswith(("data:image/", "#")) for url in page.urls)
    assert "://" not in re.sub(r'"data:[^"]*"', "", html)
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert not {"link", "iframe", "object", "embed"} & set(page.tags)


def test_numbers_are_those_of_the_evaluation(tmp_path: Path) -> None:
    judged = evaluation()
    _, page = write(tmp_path, judged)
    assert "Finds 20 of 30 defects at 2 false alarms in 20 good parts" in page.text
    assert "Defects found 66.7% 48.8% to 80.8% 20 of 30" in page.text
    assert "False alarms 10% 2.8% to 30.1% 2 of 20" in page.text
    assert f"Image AUROC {judged.image_auroc:.3f} 0.700 to 0.900" in page.text
    assert f"Average precision {judged.image_aupr:.3f} 0.750 to 0.950" in page.text
    assert f"Best image F1 {judged.image_f1:.3f} 0.800 to 1.000" in page.text
    assert "Pixel AUROC 0.957 0.940 to 0.980" in page.text
    assert "Best pixel F1 0.432 0.400 to 0.500" in page.text
    assert "AUPRO 0.877 0.850 to 0.900" in page.text
    assert "AUPIMO 0.235 0.200 to 0.300" in page.text
    cells = "20 defects found 66.7%, 48.8% to 80.8% 10 defects missed 33.3%, 19.2% to 51.2%"
    assert f"defective {cells}" in page.text
    cells = "2 false alarms 10%, 2.8% to 30.1% 18 good parts passed 90%, 69.9% to 97.2%"
    assert f"good {cells}" in page.text
    assert "40 images per second" in page.text
    for kind in ("scratch", "dent", "crack"):
        hits = [r.anomalous for r in judged.images if r.sample.kind == kind]
        low, high = (100 * end for end in wilson_interval(sum(hits), len(hits)))
        share = f"{100 * sum(hits) / len(hits):.0f}% {low:.1f}% to {high:.1f}%"
        assert f"{kind} {sum(hits)} of {len(hits)} {share}" in page.text


def test_the_page_begins_with_the_decision(tmp_path: Path) -> None:
    judged = evaluation()
    html, page = write(tmp_path, judged)
    assert page.ids.index("decisions") < page.ids.index("figures")
    found = [sum(r.score > t and not r.sample.good for r in judged.images) for t in (5, 3, 1)]
    alarms = [sum(r.score > t and r.sample.good for r in judged.images) for t in (5, 3, 1)]
    assert (
        "Rate asked Threshold Defects found False alarms "
        f"1% 5 {found[0]} of 30 {alarms[0]} of 20 "
        f"2% this model 3 {found[1]} of 30 {alarms[1]} of 20 "
        f"5% 1 {found[2]} of 30 {alarms[2]} of 20"
    ) in page.text
    odd = "Odd training images, set aside for the threshold Image Score flash.png 9.27 dust.png 6.5"
    assert odd in page.text
    assert "from the scores of 200 good images; 2 more are odd and set aside" in page.text
    assert "trained on" not in page.text.split("Decisions at the threshold")[0].lower()
    assert "review band" not in page.text
    assert '<tr class="chosen">' in html


def test_the_test_is_compared_with_the_rate_to_expect(tmp_path: Path) -> None:
    _, page = write(tmp_path, evaluation(), false_alarm_rate=0.01)
    assert "(95% interval 2.8% to 30.1%), more than expected." in page.text
    _, page = write(tmp_path, evaluation(), false_alarm_rate=0.01, expected_rate=0.051)
    assert "Odd images included, 5.1% false alarms are to be expected." in page.text
    assert "(95% interval 2.8% to 30.1%), as expected." in page.text


def test_images_that_were_trained_on_are_named_before_all_else(tmp_path: Path) -> None:
    names = tuple(f"test/good/{i:03}.png" for i in range(23))
    html, page = write(tmp_path, replace(evaluation(), trained_on=names))
    warning = (
        "The model was trained on 23 of these 50 test images, so every figure here is too good"
    )
    assert f"{warning}: {', '.join(names[:20])} and 3 more." in page.text
    assert page.text.index(warning) < page.text.index("An image is called anomalous above")
    assert html.count('<p class="caution">') == 1


def test_images_in_the_review_band_are_counted(tmp_path: Path) -> None:
    judged = evaluation()
    rows = [
        replace(r, decision="review" if not r.anomalous and r.score > 1 else "pass")
        for r in judged.images
    ]
    band = [r.sample.good for r in rows if r.decision == "review"]
    _, page = write(tmp_path, replace(judged, images=tuple(rows)))
    assert (
        f"{band.count(False)} of the missed defects and {band.count(True)} of the good parts passed"
    ) in page.text


def test_the_gallery_shows_first_what_matters_first(tmp_path: Path) -> None:
    judged = evaluation()
    _, page = write(tmp_path, judged)
    groups = [i for i in page.ids if i in ("missed", "false-alarms", "borderline", "found")]
    assert groups == ["missed", "false-alarms", "borderline", "found"]
    missed = sorted((r for r in judged.images if not r.sample.good and not r.anomalous),
                    key=lambda r: r.score)  # fmt: skip
    positions = [page.text.index(r.sample.path.name) for r in missed]
    assert positions == sorted(positions)
    assert max(positions) < page.text.index("False alarms (2)")
    for scored in judged.images:
        assert page.text.count(scored.sample.path.name) == 1
        assert f"{scored.sample.kind} {number(scored.score)} " in page.text


def test_a_cap_keeps_mistakes_of_both_sorts_and_counts_the_rest(tmp_path: Path) -> None:
    drawn: list[ScoredImage] = []
    done: list[tuple[str, int, int]] = []

    def gallery(scored: ScoredImage) -> GalleryItem:
        drawn.append(scored)
        return draw(scored)

    _, page = write(
        tmp_path,
        evaluation(),
        gallery=gallery,
        max_images=6,
        progress=lambda *step: done.append(step),
    )
    assert [scored.sample.good for scored in drawn] == [False, True, False, True, False, False]
    assert done == [("report", i, 6) for i in range(1, 7)]
    assert "6 of 50 images" in page.text
    assert "44 are not shown" in page.text
    assert "6 of 10 not shown" in page.text


def test_no_images_at_all_is_a_choice(tmp_path: Path) -> None:
    _, page = write(tmp_path, evaluation(), max_images=0)
    assert "0 of 50 images" in page.text


def noise() -> GalleryItem:
    """What compresses worst."""
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    return GalleryItem(image, np.zeros((8, 8), np.float32), np.zeros((200, 200), np.bool_))


def test_a_thousand_images_stay_in_the_budget(tmp_path: Path) -> None:
    item = noise()
    html, page = write(tmp_path, evaluation(400, 600), gallery=lambda _: item, max_bytes=1_000_000)
    assert len(html) < 1_000_000 + 200_000
    shown = page.tags.count("use")
    assert 20 < shown < 200, "number gives way where quality was not enough"
    assert f"{shown} of 1000 images" in page.text
    assert f"{1000 - shown} are not shown" in page.text


def photograph(seed: int) -> GalleryItem:
    """A texture with a sensor's noise, a lively map and a mask with a ragged edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:512, :512]
    grey = 130 + 30 * np.sin(x / 9 + seed) + 20 * np.sin(y / 23) + rng.normal(0, 6, x.shape)
    mask = np.hypot(y - 200, x - 300) < 40 + 15 * np.sin(x / 3)
    anomaly_map = 3 + 2 * np.sin(x / 20) * np.sin(y / 14) + 4 * mask
    return GalleryItem(
        np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2),
        anomaly_map.astype(np.float32),
        mask,
    )


def test_the_budget_counts_all_that_a_picture_takes(tmp_path: Path) -> None:
    item = photograph(0)
    html, page = write(tmp_path, evaluation(8, 12), gallery=lambda _: item, max_images=0)
    frame = len(html)
    html, page = write(tmp_path, evaluation(8, 12), gallery=lambda _: item, max_bytes=300_000)
    shown = page.tags.count("use")
    assert 5 < shown < 20
    # What is left for the tags and the caption of each.
    assert len(html) - frame < 300_000 + 1_100 * shown


@pytest.mark.slow
def test_a_thousand_photographs_stay_under_fifteen_megabytes(tmp_path: Path) -> None:
    items = [photograph(seed) for seed in range(5)]

    def gallery(scored: ScoredImage) -> GalleryItem:
        return items[int(scored.sample.path.stem[-3:]) % 5]

    html, page = write(tmp_path, evaluation(400, 600), gallery=gallery, max_images=1000)
    assert 5_000_000 < len(html.encode()) < 15_000_000
    assert page.tags.count("use") > 500


def test_quality_gives_way_before_number(tmp_path: Path) -> None:
    item, judged = noise(), evaluation(5, 5)
    fine, _ = write(tmp_path, judged, gallery=lambda _: item)
    coarse, page = write(tmp_path, judged, gallery=lambda _: item, max_bytes=len(fine) * 2 // 3)
    assert page.tags.count("use") == 10
    assert len(coarse) < 0.8 * len(fine)


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    attack = '"><script>alert(1)</script>'
    bad = ScoredImage(Sample(Path(f"{attack}.png"), attack), 1.0, 0.5, anomalous=False)
    judged = replace(evaluation(5, 5), images=(*evaluation(5, 5).images, bad))
    html, page = write(
        tmp_path,
        judged,
        dataset_name=attack,
        model_info={"name": attack, attack: attack},
        notes=[attack],
    )
    assert "<script>alert" not in html
    assert page.tags.count("script") == 1
    assert page.text.count("<script>alert(1)</script>") >= 6


def test_undecodable_names_are_written(tmp_path: Path) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    bad = ScoredImage(Sample(Path(name), "dent"), 1.0, 0.5, anomalous=False)
    _, page = write(tmp_path, replace(evaluation(5, 5), images=(bad,)))
    assert "caf?.png" in page.text


def test_without_masks_pixel_figures_are_a_dash_with_the_reason(tmp_path: Path) -> None:
    _, page = write(tmp_path, evaluation(masks=False))
    for label in ("Pixel AUROC", "Best pixel F1", "AUPRO", "AUPIMO"):
        assert f"{label} – the dataset has no masks" in page.text


def test_without_good_images(tmp_path: Path) -> None:
    _, page = write(tmp_path, evaluation(n_good=0))
    assert "Finds 20 of 30 defects" in page.text
    assert "at 0 false alarms" not in page.text
    assert "False alarms – no good images were tested" in page.text
    assert "Image AUROC – needs good and defective images" in page.text
    assert "AUPIMO – no good images were tested" in page.text
    assert "the false alarms are unknown" in page.text
    assert "roc-title" not in page.ids
    assert set(page.ids) >= SECTIONS


def test_without_defective_images(tmp_path: Path) -> None:
    _, page = write(tmp_path, evaluation(n_defect=0))
    assert "Raises 2 false alarms in 20 good parts" in page.text
    assert "Defects found – no defective images were tested" in page.text
    assert "Pixel AUROC – no defective images were tested" in page.text
    assert "what it misses is unknown" in page.text


def test_a_single_image_without_calibration(tmp_path: Path) -> None:
    judged = evaluation(n_good=1, n_defect=0)
    _, page = write(
        tmp_path,
        judged,
        calibration_scores=[],
        false_alarm_rate=None,
        threshold=judged.images[0].score,
    )
    assert "The threshold was set by hand, not from the scores of good images." in page.text
    assert "No calibration scores were recorded" in page.text


def test_a_threshold_from_good_images_needs_no_caution(tmp_path: Path) -> None:
    html, page = write(tmp_path, evaluation())
    assert '<p class="caution">' not in html
    assert "Threshold from good images, for 2% false alarms" in page.text


def test_a_threshold_by_hand_is_said_beside_the_verdict(tmp_path: Path) -> None:
    scores = np.linspace(0, 4, 99)  # 25 of them are above the threshold
    options = {"false_alarm_rate": None, "calibration_scores": scores}
    for chosen in (None, "by hand"):
        _, page = write(tmp_path, evaluation(), **options, threshold_chosen=chosen)
        caution = "The threshold was set by hand, not from the scores of good images."
        assert f"2 false alarms in 20 good parts {caution}" in page.text
        assert "By the scores of 99 good images, about 26% false alarms" in page.text
        assert "Threshold from set by hand" in page.text


def test_a_threshold_from_known_defects_is_said_beside_the_verdict(tmp_path: Path) -> None:
    chosen = "recall 0.99 on the known defects of <parts>"
    _, page = write(tmp_path, evaluation(), false_alarm_rate=None, threshold_chosen=chosen)
    caution = f"The threshold was chosen with known defects ({chosen}), not from good images alone."
    assert f"2 false alarms in 20 good parts {caution}" in page.text
    assert "set by hand" not in page.text


def test_a_threshold_that_nothing_was_calibrated_for_is_said(tmp_path: Path) -> None:
    _, page = write(tmp_path, evaluation(), calibration_scores=[])
    assert "The threshold came with the model. No good images were calibrated on" in page.text
    assert "set for" not in page.text


def test_too_few_images_for_the_rate_are_named(tmp_path: Path) -> None:
    scores = np.linspace(0, 3, 9)
    _, page = write(tmp_path, evaluation(), calibration_scores=scores, false_alarm_rate=0.01)
    assert "from the scores of 9 good images" in page.text
    assert "cannot promise fewer than 10% false alarms" in page.text


def test_an_interval_of_a_perfect_share_has_a_width(tmp_path: Path) -> None:
    rows = [row("good", i, 0.0) for i in range(10)] + [row("dent", i, 9.0) for i in range(10)]
    judged = replace(evaluation(), image_auroc=1.0, images=tuple(rows))
    _, page = write(tmp_path, judged)
    assert "Finds 10 of 10 defects at 0 false alarms in 10 good parts" in page.text
    assert "Defects found 100% 72.2% to 100% 10 of 10" in page.text
    assert "False alarms 0% 0% to 27.8% 0 of 10" in page.text
    assert "Image AUROC 1.000" in page.text


def test_nearly_perfect_is_not_rounded_to_perfect(tmp_path: Path) -> None:
    _, page = write(tmp_path, replace(evaluation(), image_auroc=0.99996))
    assert "Image AUROC 0.999 " in page.text


def test_an_unreadable_image_leaves_its_reason(tmp_path: Path) -> None:
    def gallery(scored: ScoredImage) -> GalleryItem:
        raise ImageError(scored.sample.path, "is truncated")

    _, page = write(tmp_path, evaluation(5, 5), gallery=gallery)
    assert page.text.count("Can't be shown: is truncated") == 10


def test_model_info_has_labels_and_dashes(tmp_path: Path) -> None:
    info = {"name": "part.onnx", "layers": ["a", "b"], "input_size": (256, 320), "rank_kept": 7}
    _, page = write(tmp_path, evaluation(), model_info=info)
    assert "Model part.onnx Preset – (not recorded)" in page.text
    assert "Layers a, b Input size 256 × 320 Training images – (not recorded)" in page.text
    assert "Rank kept 7" in page.text


def test_a_failure_leaves_the_old_report(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("old")

    def gallery(scored: ScoredImage) -> GalleryItem:
        raise KeyError(scored.sample.path)

    with pytest.raises(KeyError):
        write(tmp_path, evaluation(2, 2), gallery=gallery)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_place_that_cannot_be_written_fails_before_the_work(tmp_path: Path) -> None:
    drawn: list[ScoredImage] = []

    def gallery(scored: ScoredImage) -> GalleryItem:
        drawn.append(scored)
        return draw(scored)

    with pytest.raises(OutputError, match="missing"):
        write(tmp_path / "missing", evaluation(), gallery=gallery)
    assert not drawn


def test_an_evaluation_needs_rows(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="at least one image"):
        write(tmp_path, replace(evaluation(), images=()))
    with pytest.raises(OptionError, match="at least 0"):
        write(tmp_path, evaluation(), max_images=-1)


@pytest.mark.parametrize(
    ("good", "defect", "calibration", "threshold"),
    [
        ([1, 2, 3], [1e3, 1e6], [1, 2, 3], 4),
        ([-1, 0, 1], [5], [], 2),
        ([5], [], [], 5),
        ([3] * 9, [3] * 9, [3] * 9, 3),
        ([3] * 9, [3e-5], [3] * 9, 3),
        ([1, 2], [np.inf, 9], [1, 2, 3], 4),
        ([5500, 5600], [57688, 60000], np.linspace(5000, 6000, 50), 6100),
        ([1e-9, 2e-9], [5e-7], [1e-9, 2e-9, 3e-9], 4e-9),
    ],
)
def test_every_score_is_in_the_histogram(
    good: list[float], defect: list[float], calibration: list[float], threshold: float
) -> None:
    svg = score_histogram(Caption("h", "Title", "Description"), good=good, defect=defect,
                          calibration=calibration, threshold=threshold)  # fmt: skip
    Page(svg)
    assert "nan" not in svg
    for style, scores in (("good", good), ("defect", defect), ("calibration", calibration)):
        bars = re.search(rf'<g class="bars {style}">(.*?)</g>', svg)
        counted = re.findall(r"<title>(\d+) from", bars[1]) if bars else []
        assert sum(map(int, counted)) == len(scores)
    xs = [float(x) for x in re.findall(r'<rect x="([^"]+)"', svg)]
    assert all(0 <= x <= 440 for x in xs)
    ticks = re.findall(r'class="tick"', svg)
    assert 1 <= len(ticks) <= 9


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (14.132, "14.1"),
        (5, "5"),
        (57688.4, "57,688"),
        (0.00123, "0.00123"),
        (-2.5, "-2.5"),
        (1000, "1,000"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_written_for_readers(value: float, text: str) -> None:
    assert number(value) == text
