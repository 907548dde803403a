"""A Django project whose orders and the reminders of them are saved in one transaction.

Run it:      pip install pyncette-core django, and then, in this folder:
                 python manage.py migrate
                 python manage.py runserver
             and in a second terminal: python manage.py pyncette run
You see:     Nothing yet. In a third terminal:
                 curl -X POST localhost:8000/orders/ -d "item=tea&seconds=3"
             Three seconds later the second terminal reminds of the order. `-d "item=coffee"` is sold out: the view raises after it has
             scheduled, the transaction is rolled back, and nobody is reminded of anything.
Then try:    python manage.py pyncette list remind
End it:      Ctrl-C in both. Delete shop.db to start over.
"""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    execute_from_command_line(sys.argv)
