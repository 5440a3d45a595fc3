"""Tests that move real guests between real hosts."""
