"""Diagnoses for people and machines: terminal, HTML, Markdown and JSON. Rendering computes no verdict."""
