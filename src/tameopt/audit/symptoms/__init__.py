"""Symptoms: what goes wrong in a run, each recognised by one small test on its record or on the network's outputs.

Every test yields one finding: MEASURED when the symptom is there, REFUTED when it is not, UNKNOWN when the record
does not tell. Thresholds are our choices, calibrated on labelled runs (`benchmarks/audit_verdicts.py`).
"""
