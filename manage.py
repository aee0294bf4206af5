#!/usr/bin/env python3
"""Django's command line for Roost."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings.production")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    if sys.argv[1:2] == ["doctor"]:
        # Without settings there are no commands at all, and a wrong one is the first thing that it is to name.
        from django.conf import settings

        try:
            settings.INSTALLED_APPS  # noqa: B018  (reads them)
        except ImproperlyConfigured as error:
            print(f"  ✗  settings    {error}\n     {'':<11} → Set it as docs/environment.md says, then look again.")
            sys.exit(1)

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
