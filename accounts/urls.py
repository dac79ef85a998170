from django.urls import include, path

from accounts.views import keys, members, organizations, projects

tenant = [
    path("keys/", keys.index, name="keys"),
    path("keys/new/", keys.create, name="key-create"),
    path("keys/<uuid:key_id>/", keys.show, name="key"),
    path("keys/<uuid:key_id>/revoke/", keys.revoke, name="key-revoke"),
    path("keys/<uuid:key_id>/rotate/", keys.rotate, name="key-rotate"),
    path("members/", members.index, name="members"),
    path("members/<uuid:member_id>/role/", members.change_role, name="member-role"),
    path("members/<uuid:member_id>/remove/", members.remove, name="member-remove"),
    path("invitations/", members.invite, name="invitation-create"),
    path("invitations/<uuid:invitation_id>/resend/", members.resend, name="invitation-resend"),
    path("invitations/<uuid:invitation_id>/revoke/", members.withdraw, name="invitation-revoke"),
    path("projects/", projects.index, name="projects"),
    path("projects/<uuid:project_id>/archive/", projects.archive, name="project-archive"),
    path("settings/", organizations.settings, name="organization-settings"),
]
urlpatterns = [
    path("account/", include("allauth.urls")),
    path("organizations/new/", organizations.create, name="organization-create"),
    path("invite/<str:token>/", organizations.accept, name="invitation-accept"),
    path("o/<slug:org>/", include(tenant)),
]
