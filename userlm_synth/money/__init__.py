"""What requests cost, budgets that are never passed, and what a run will cost."""

from userlm_synth.money.bill import Bill
from userlm_synth.money.forecast import Estimate, Forecast, estimate, usd
from userlm_synth.money.price import TEMPLATE_TOKENS, Price, most_tokens, parse_price, price_of
from userlm_synth.money.prices import Prices, check_budgets, load_prices
from userlm_synth.money.purse import BudgetUsedUp, Purse

__all__ = [
    "TEMPLATE_TOKENS", "Bill", "BudgetUsedUp", "Estimate", "Forecast", "Price", "Prices", "Purse",
    "check_budgets", "estimate", "load_prices", "most_tokens", "parse_price", "price_of", "usd",
]  # fmt: skip
