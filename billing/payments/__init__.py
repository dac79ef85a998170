"""Payments by Stripe: the one place that speaks its language.

The books are ours; Stripe is how money gets here. Nothing is credited because a message says so:
the object is fetched anew, and compared with what we asked for. Every call that changes something
at Stripe is a row first (`StripeCall`), so that a crash at any moment loses and doubles nothing.
"""
