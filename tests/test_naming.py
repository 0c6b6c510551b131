"""Keys are what Segment would make of the same names, and names that give none are told what to do."""

from __future__ import annotations

import pytest

from audiencesync.naming import check_key, key_of


@pytest.mark.parametrize(("name", "key"), [
    ("Order completed last 30days", "order_completed_last_30days"),
    ("Order Completed Last 30 Days", "order_completed_last_30_days"),
    ("OrderCompleted", "order_completed"),
    ("Dormant Shoppers", "dormant_shoppers"),
    ("trial-users", "trial_users"),
    ("C++ devs", "c_devs"),
    ("orders>=3", "orders_3"),
    ("Cart Abandoned (7d)", "cart_abandoned_7d"),
    ("amazon ads audience 6 may 24", "amazon_ads_audience_6_may_24"),
    ("3 product views in last 60 days", "3_product_views_in_last_60_days"),
    ("New Users 7days", "new_users_7days"),
    ("2FA enabled", "2fa_enabled"),
    ("iOS users", "ios_users"),
    ("VIPCustomers", "vip_customers"),
    ("  Big   Spenders!  ", "big_spenders"),
    ("a_-_b", "a_b"),
    ("_already_snaked_", "already_snaked"),
    ("Über Kunden", "uber_kunden"),
    ("ÜberKunden", "uber_kunden"),
])
def test_a_name_gives_the_key_that_segment_would_give(name, key):
    assert key_of(name) == key


@pytest.mark.parametrize("name", ["日本の顧客", "", "   ", "!!!", "___"])
def test_a_name_without_latin_letters_or_digits_asks_for_a_key(name):
    with pytest.raises(ValueError, match="key:"):
        key_of(name)


def test_a_name_that_is_too_long_asks_for_a_key():
    assert len(key_of("a b " * 63)) == 251
    with pytest.raises(ValueError, match=r"longer than 255 characters.*key:"):
        key_of("ab" * 128)


@pytest.mark.parametrize("name", [
    "Email", "email", "User ID", "userId", "FirstName", "First Name", "created-at", "ID", "Name",
])
def test_a_name_of_a_standard_trait_asks_for_a_key(name):
    with pytest.raises(ValueError, match=r"standard trait.*key:"):
        key_of(name)


@pytest.mark.parametrize("key", [
    "New_Users_7days", "has space", "Ünïcode", "日本", "j_o_x__y_abc123", "x" * 255, "email_openers",
])
def test_an_explicit_key_is_kept_verbatim(key):
    assert check_key(key) == key


@pytest.mark.parametrize(("key", "words"), [
    ("", "empty"), ("  ", "empty"), ("x" * 256, "255"), ("a\nb", "cannot be seen"), ("a\x00", "cannot be seen"),
    (" a", "blanks"),
    ("email", "standard trait"), ("createdAt", "standard trait"), ("USER_ID", "standard trait"),
    ("anonymousId", "standard trait"),
])
def test_an_explicit_key_that_nothing_can_keep_is_refused(key, words):
    with pytest.raises(ValueError, match=words):
        check_key(key)
