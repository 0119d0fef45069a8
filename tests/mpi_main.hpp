// For tests that run under mpirun.
#pragma once

#include "llmft/comm/process.hpp"

const llmft::Process& test_process();
