"""The tasks. They are in the database of the orders, so one transaction can cover both."""

from django.conf import settings

from pyncette import Context, Pyncette

app = Pyncette(f"sqlite:///{settings.DATABASE}")


@app.dynamic_task()
async def remind(context: Context) -> None:
    from shop.models import Order  # here, since views import this module before Django has its models

    order = await Order.objects.aget(pk=context.args["order"])
    order.reminded = True
    await order.asave()
    print(f"reminded of {order}", flush=True)
