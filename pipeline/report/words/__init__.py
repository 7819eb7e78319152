"""Texts of reports: how numbers, settings and findings are phrased."""
