"""The audit: plan analyses, run them, judge the theorems, and say in one sentence where a training is going."""
