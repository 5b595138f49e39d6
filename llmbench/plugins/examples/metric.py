"""Balanced accuracy, which also scores every classification: the metric `balanced-accuracy` of llmbench."""

import llmbench

LLMBENCH_API = 2


def mean_recall(predictions, references):
    recalls = []
    for label in sorted(set(references)):
        hits = [p == label for p, r in zip(predictions, references, strict=True) if r == label]
        recalls.append(sum(hits) / len(hits))
    return sum(recalls) / len(recalls)


def load(cache_dir):
    import datasets
    import evaluate

    class Balanced(evaluate.Metric):
        def _info(self):
            label = datasets.Value("int64")
            features = datasets.Features({"predictions": label, "references": label})
            return evaluate.MetricInfo(description="mean recall", citation="", features=features)

        def _compute(self, predictions, references):
            return {"balanced_accuracy": mean_recall(predictions, references)}

    return Balanced(config_name="balanced-accuracy", cache_dir=cache_dir, keep_in_memory=True)


@llmbench.hookimpl
def llmbench_metrics():
    spec = llmbench.MetricSpec(
        name="balanced-accuracy",
        load=load,
        values={"balanced_accuracy": "higher"},
        tasks=("classification",),
        bounds={"balanced_accuracy": (0, 1)},
        known=(([0, 0, 1, 1], [0, 0, 0, 1], {"balanced_accuracy": 5 / 6}),),
    )
    return [spec]
