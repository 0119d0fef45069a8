// SIGTERM and SIGUSR1 ask for a checkpoint and an orderly end; they are noted and looked at between steps.
#pragma once

namespace llmft {

class InterruptWatch {
 public:
  InterruptWatch();
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

  static bool requested();
};

}  // namespace llmft
