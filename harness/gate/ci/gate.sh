#!/usr/bin/env bash
# Any other CI: measure the checkout in $BASELINE and this one in turns, fail only on a proven regression.
# usage: BASELINE=../main SCENARIO=scenarios/gate.yaml harness/gate/ci/gate.sh
set -u
DYNO=${DYNO:-.venv/bin/dyno}
"$DYNO" gate --scenario "${SCENARIO:-scenarios/gate.yaml}" --baseline-ref "${BASELINE:?a checkout}" \
  --rules "${RULES:-harness/gate/ci/rules.yaml}" --max-minutes "${MAX_MINUTES:-30}" \
  --junit gate.xml --markdown gate.md
code=$?
case $code in
  0) echo "gate: pass" ;;
  1) echo "gate: regressed" ;;
  4) echo "gate: cannot tell; the output says what it would take" ;;
  *) echo "gate: could not run (exit code $code)" ;;
esac
# Cannot tell is not a regression. STRICT=1 lets it fail the build as well.
if [ "$code" -eq 4 ] && [ "${STRICT:-0}" != 1 ]; then exit 0; fi
exit "$code"
