"""A stand-in for Stripe on one machine: for tests, and for the quickstart's payment demo.

A process of its own that nothing of ours imports. It keeps state, checks every parameter against
stripe-python's own types and every answer too, signs its webhooks, and can be told to misbehave.
No money moves, ever: live keys are refused.
"""
