from django import template
from django.forms import BoundField
from django.utils.safestring import SafeString

register = template.Library()


@register.filter
def styled(field: BoundField) -> SafeString:
    """The field's widget in our look, for forms that are not ours."""
    return field.as_widget(attrs={"class": "input w-full"})
