#!/bin/sh
# Puts the target back to the release that it is given: the same switch as a deployment.
exec "$(dirname "$0")/deploy.sh"
