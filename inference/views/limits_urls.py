from django.urls import path

from inference.views import limits

urlpatterns = [
    path("settings/limits/", limits.organization, name="organization-limits"),
    path("members/<uuid:member_id>/limits/", limits.member, name="member-limits"),
    path("keys/<uuid:key_id>/limits/", limits.key, name="key-limits"),
    path("instances/<uuid:instance_id>/limits/", limits.instance, name="instance-limits"),
]
