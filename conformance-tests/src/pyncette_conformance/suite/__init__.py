"""The tests. In the tests of a backend of your own: ``from pyncette_conformance.suite import *``.

Each class is a family of behaviours. Derive from one and override a test of it to say that your store differs there, and why.
"""

from collections.abc import Sequence

from pyncette_conformance.suite.test_cancellation import TestCancellation
from pyncette_conformance.suite.test_claim import TestClaim
from pyncette_conformance.suite.test_claim_in_parallel import TestClaimInParallel
from pyncette_conformance.suite.test_concurrent_calls import TestConcurrentCalls
from pyncette_conformance.suite.test_durability import TestDurability, TestSharing
from pyncette_conformance.suite.test_get import TestGet
from pyncette_conformance.suite.test_history import TestHistory
from pyncette_conformance.suite.test_list import TestList
from pyncette_conformance.suite.test_memo import TestMemo
from pyncette_conformance.suite.test_model import TestModel
from pyncette_conformance.suite.test_names import TestNames
from pyncette_conformance.suite.test_optional import TestPartitions, TestServerTime, TestStats
from pyncette_conformance.suite.test_pause import TestPause
from pyncette_conformance.suite.test_races import TestRaces
from pyncette_conformance.suite.test_register import TestRegister
from pyncette_conformance.suite.test_settle import TestSettle
from pyncette_conformance.suite.test_transactions import TestTransactions
from pyncette_conformance.suite.test_unregister import TestUnregister
from pyncette_conformance.suite.test_values import TestValues
from pyncette_conformance.suite.test_wake_up import TestWakeUp
from pyncette_conformance.suite.test_workers import TestWorkers

__all__ = [
    "TestCancellation",
    "TestClaim",
    "TestClaimInParallel",
    "TestConcurrentCalls",
    "TestDurability",
    "TestGet",
    "TestHistory",
    "TestList",
    "TestMemo",
    "TestModel",
    "TestNames",
    "TestPartitions",
    "TestPause",
    "TestRaces",
    "TestRegister",
    "TestServerTime",
    "TestSettle",
    "TestSharing",
    "TestStats",
    "TestTransactions",
    "TestUnregister",
    "TestValues",
    "TestWakeUp",
    "TestWorkers",
]

#: In which a store is written, and its tests are run: what fails first is what to repair first.
ORDER: Sequence[type] = (
    TestRegister,
    TestGet,
    TestClaim,
    TestSettle,
    TestList,
    TestUnregister,
    TestMemo,
    TestNames,
    TestValues,
    TestConcurrentCalls,
    TestClaimInParallel,
    TestRaces,
    TestPause,
    TestWorkers,
    TestHistory,
    TestStats,
    TestPartitions,
    TestServerTime,
    TestTransactions,
    TestWakeUp,
    TestDurability,
    TestSharing,
    TestCancellation,
    TestModel,
)
