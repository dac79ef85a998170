"""What happens when credit is used up, in words: said in one place."""

from django.utils.translation import gettext_noop

AT_ZERO = gettext_noop(
    "When the credit is used up, requests to models that cost something are refused at once with "
    "status 429 and the code insufficient_quota; models that are free go on answering. Requests "
    "are let in only as long as the most they may cost is covered, so usage never takes the "
    "balance below zero. Instances that cost by the hour are stopped when the credit lasts for "
    "less than five minutes of them: they take no new requests, finish the answers they are "
    "giving, and free their GPUs. Settings, keys and data stay as they are. An hour before, the "
    "owners, admins and billing members are told by e-mail. After a top-up requests are answered "
    "again within seconds; stopped instances start again when somebody starts them, or by "
    "themselves where that was chosen."
)
