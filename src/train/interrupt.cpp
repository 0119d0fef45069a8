#include "interrupt.hpp"

#include <csignal>

namespace llmft {
namespace {

volatile std::sig_atomic_t g_requested = 0;
constexpr int kSignals[] = {SIGTERM, SIGUSR1};

void note_signal(int) {
  g_requested = 1;
}

}  // namespace

InterruptWatch::InterruptWatch() {
  g_requested = 0;
  struct sigaction action {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;
  for (int signal : kSignals) sigaction(signal, &action, nullptr);
}

InterruptWatch::~InterruptWatch() {
  for (int signal : kSignals) std::signal(signal, SIG_DFL);
}

bool InterruptWatch::requested() {
  return g_requested != 0;
}

}  // namespace llmft
