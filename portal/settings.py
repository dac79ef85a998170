"""One settings file; everything that differs between installations comes from `portal.lib.env`."""

from pathlib import Path
from typing import Any

import environ
from csp.constants import NONCE, NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from billing.usage_record import UsageSource
from portal.lib.env import EnvironmentProblem, environment

try:
    ENV = environment()
    SECRET_KEY = ENV.secret("secret_key")
    API_KEY_PEPPER = ENV.secret("api_key_pepper")
except EnvironmentProblem as problem:
    raise ImproperlyConfigured(str(problem)) from problem

BASE_DIR = Path(__file__).resolve().parent.parent
DEBUG = ENV.debug
PROVISIONER = "local"
PUBLIC_URL = ENV.public_url
GATEWAY_URL = ENV.gateway_url
# The host header is checked only where an operator named the hosts; on a laptop any will do.
ALLOWED_HOSTS = list(ENV.allowed_hosts) or ["*"]
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
SECURE_COOKIES = PUBLIC_URL.startswith("https://")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_COOKIES
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if SECURE_COOKIES else None
SECURE_HSTS_SECONDS = 31_536_000 if SECURE_COOKIES else 0

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "channels",
    "allauth",
    "allauth.account",
    "django_cotton.apps.SimpleAppConfig",
    "django_filters",
    "django_htmx",
    "template_partials.apps.SimpleAppConfig",
    "lucide",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "csp",
    "portal",
    "accounts",
    "billing",
    "inference",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "accounts.tenancy.TenancyMiddleware",
]

ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "OPTIONS": {
            "loaders": [
                (
                    "template_partials.loader.Loader",
                    [
                        (
                            "django.template.loaders.cached.Loader",
                            [
                                "django_cotton.cotton_loader.Loader",
                                "django.template.loaders.filesystem.Loader",
                                "django.template.loaders.app_directories.Loader",
                            ],
                        )
                    ],
                )
            ],
            "builtins": [
                "django_cotton.templatetags.cotton",
                "django.templatetags.i18n",
                "django.templatetags.static",
                "django_htmx.templatetags.django_htmx",
                "lucide.templatetags.lucide",
                "template_partials.templatetags.partials",
            ],
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "csp.context_processors.nonce",
                "portal.context.installation",
            ],
        },
    }
]

COTTON_SNAKE_CASED_NAMES = False  # <c-page-header> is cotton/page-header.html

DATABASES: dict[str, Any] = {
    "default": environ.Env.db_url_config(ENV.database)
    | {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
}
if not ENV.database_url:  # a socket folder is no host that an URL parser knows
    DATABASES["default"] |= {
        "HOST": str(ENV.embedded_postgres_socket_dir),
        "NAME": "modelport",
        "USER": "modelport",  # who owns nothing of the ledger; see billing/protection.py
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": ENV.redis}
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [ENV.redis]},
    }
}
# Kombu names a Redis socket differently from redis-py.
CELERY_BROKER_URL = ENV.redis.replace("unix://", "redis+socket://", 1)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TIMEZONE = "UTC"

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "home"
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email"}
# No password typed: such people sign in by codes that are mailed to them.
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1"]
ACCOUNT_ADAPTER = "accounts.signup.Adapter"
ACCOUNT_SIGNUP_FORM_CLASS = "accounts.signup.SignupForm"
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_UNIQUE_EMAIL = True
ACCOUNT_LOGIN_BY_CODE_ENABLED = True
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True

# Without EMAIL_URL, mail goes to the terminal's log and to a page that this machine alone can open.
LOCAL_OUTBOX = not ENV.email_url
if LOCAL_OUTBOX:
    EMAIL_BACKEND = "portal.outbox.EmailBackend"
else:
    vars().update(environ.Env.email_url_config(ENV.email_url))
EMAIL_TIMEOUT = 10  # seconds; invitations are mailed while their sender waits
DEFAULT_FROM_EMAIL = "Modelport <modelport@localhost>"

LANGUAGE_CODE = "en"
# A language is offered once its catalogue in portal/locale is complete: half a translation serves
# nobody. Next: ("zh-hant", "繁體中文"), ("zh-hans", "简体中文"), ("ja", "日本語").
LANGUAGES = [("en", "English")]
LOCALE_PATHS = [BASE_DIR / "portal" / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "/static/"
STATIC_ROOT = ENV.home / "staticroot"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF, NONCE],
        "style-src": [SELF, NONCE],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        # Browsers hold redirects after a form to it too: to where people pay.
        "form-action": [SELF, *ENV.payment_pages],
        "base-uri": [SELF],
        "object-src": [NONE],
        "frame-ancestors": [NONE],
        "manifest-src": [SELF],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"

# Closed by default: a view that wants to be public says so itself.
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.authentication.ManagementKeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PAGINATION_CLASS": "portal.lib.pagination.KeysetPagination",
    "EXCEPTION_HANDLER": "portal.lib.problems.handle",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Modelport",
    "DESCRIPTION": _("Private LLM API hosting: organizations, models, instances, keys and usage."),
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    # What follows names the group in the documentation: keys, members, instances, …
    "SCHEMA_PATH_PREFIX": r"/api/v1(/organizations/{organization})?",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "ModelSource": "inference.models.instance.Instance.Source",
        "KeyKind": [("api", "API key"), ("management", "Management key")],
        "InvoiceKind": "billing.models.invoice.Invoice.Kind",
        "InvoiceStatus": "billing.models.invoice.Invoice.Status",
        "InvoiceLineKind": "billing.models.invoice.InvoiceLine.Kind",
        "UsageSource": [(source.value, source.value) for source in UsageSource],
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "portal.api.with_problems",
    ],
}

# Prompts and answers never reach a log: nothing here logs bodies, and no logger is asked to.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        "httpx2": {"level": "WARNING"},  # its INFO lines have addresses with what people search for
        "uvicorn": {"level": "WARNING"},
        "stripe": {"level": "WARNING"},
    },
}
