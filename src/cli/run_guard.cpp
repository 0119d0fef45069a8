#include <chrono>
#include <exception>
#include <new>
#include <thread>

#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"
#include "llmft/cli/commands.hpp"

namespace llmft {
namespace {

int fail(const Process* process, int code, const std::string& message) {
  if (process != nullptr && process->size() > 1) {
    // Ranks that fail alike would all say so. The launcher ends the silent ones when the speaker aborts.
    if (process->speaks_for_failed_ranks())
      log::error_line(message);
    else
      std::this_thread::sleep_for(std::chrono::seconds(5));
    process->abort(code);
  }
  log::error_line(message);
  return code;
}

}  // namespace

int run_guard(const Process* process, const std::function<int()>& action) {
  try {
    return action();
  } catch (const UserError& e) {
    return fail(process, kExitUser, e.what());
  } catch (const std::bad_alloc&) {
    return fail(process, kExitUser,
                "out of memory on this host; use fewer ranks a node, smaller train.pack_tokens or preprocess "
                "batches");
  } catch (const std::exception& e) {
    return fail(process, kExitInternal, e.what());
  }
}

}  // namespace llmft
