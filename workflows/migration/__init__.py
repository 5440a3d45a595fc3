"""The migration: its chain of steps, who may work on a step, and how a job is submitted, admitted and resolved."""
