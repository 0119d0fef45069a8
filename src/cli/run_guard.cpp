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
    // Ranks that fail alike would all say so. Rank 0 speaks first and ends the others while they wait here.
    if (!process->is_root())
      std::this_thread::sleep_for(std::chrono::milliseconds(400 + 50 * process->rank()));
    log::error_line(message);
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
