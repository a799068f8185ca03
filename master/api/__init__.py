"""Thin routes: parse, call a service, map errors."""
