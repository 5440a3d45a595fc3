"""Tests of what decides by rows: real Postgres, no guest."""
