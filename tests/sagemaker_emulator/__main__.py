"""`python -m tests.sagemaker_emulator`: a local SageMaker until Ctrl-C; prints the variables to set."""

from __future__ import annotations

import signal
import sys

from tests.sagemaker_emulator.local import BUCKET, local_aws

with local_aws() as local:
    for name, value in local.environment.items():
        print(f"export {name}={value}")
    print("export DYNO_SAGEMAKER_ROLE=arn:aws:iam::123456789012:role/dyno")
    print(f"export DYNO_SAGEMAKER_BUCKET={BUCKET}", flush=True)
    print("serving; Ctrl-C ends it", file=sys.stderr)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
