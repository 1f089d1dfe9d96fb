"""Evaluation: a model on annotated data, or finished maps against annotations; counts first, then scores."""
