"""Questions to the real APIs: which reading of each guess about them holds, and whether our defaults assume it."""

from tests.live import crisp, planhat, richpanel, segment, usercom

ACCOUNTS = (planhat.ACCOUNT, usercom.ACCOUNT, crisp.ACCOUNT, richpanel.ACCOUNT, segment.ACCOUNT)
"""Everybody who can be asked."""
