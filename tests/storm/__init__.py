"""Requests under a storm of kills: nothing lost, nothing double, nothing overcharged (P1-P3)."""
