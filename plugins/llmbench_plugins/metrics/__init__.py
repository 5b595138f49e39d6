"""The built-in metrics, one file for each kind of answer: classes, spans, texts, probabilities."""
