"""Tests of what decides by itself: no server, no guest."""
