// scripted_server TOKENIZER [--step-seconds=S] [--max-sequences=N] [--max-context=N] [--no-adapter] [options
// of serve]: the server that `llmft serve` runs, over a ScriptedEngine. Prints the port.
#include <cstdio>

#include "llmft/base/log.hpp"
#include "llmft/serve/service.hpp"
#include "scripted_engine.hpp"

using namespace llmft;

int main(int argc, char** argv) {
  try {
    ScriptedEngine::Settings settings;
    ServeOptions options;
    OptionSet set;
    bool no_adapter = false;
    set.add("step_seconds", settings.step_seconds, "", {.flag = "--step-seconds"});
    set.add("max_sequences", settings.max_sequences, "", {.flag = "--max-sequences"});
    set.add("max_context", settings.max_context, "", {.flag = "--max-context"});
    set.add("no_adapter", no_adapter, "", {.flag = "--no-adapter"});
    describe(set, options);
    std::vector<std::string> args(argv + 2, argv + argc);
    set.parse(args);
    settings.adapter = !no_adapter;
    auto tokenizer = load_tokenizer(argv[1]);
    ScriptedEngine engine(*tokenizer, settings);
    ModelNames names{"tiny-base", no_adapter ? "" : "tiny-tuned"};
    auto service = make_chat_service(engine, *tokenizer, TemplateKind::automatic, names, options);
    std::printf("%d\n", service->port());
    std::fflush(stdout);
    service->run();
    return 0;
  } catch (const UserError& e) {
    log::error_line(e.what());
    return 2;
  } catch (const std::exception& e) {
    log::error_line(e.what());
    return 70;
  }
}
