from datetime import UTC, datetime, timedelta

from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from pyncette.django import client
from shop.models import Order
from shop.scheduling import remind


@csrf_exempt
def orders(request: HttpRequest) -> JsonResponse:
    if request.method == "POST":
        try:
            with transaction.atomic():
                order = place(request.POST["item"], float(request.POST.get("seconds", "60")))
        except ValueError as error:
            return JsonResponse({"error": str(error)}, status=409)
        return JsonResponse({"id": order.pk}, status=201)
    return JsonResponse({"orders": list(Order.objects.values("id", "item", "reminded"))})


def place(item: str, seconds: float) -> Order:
    order = Order.objects.create(item=item)
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    client().within(connection).schedule_task(remind, str(order.pk), execute_at=at, order=order.pk)
    if item == "coffee":
        raise ValueError("coffee is sold out")
    return order
