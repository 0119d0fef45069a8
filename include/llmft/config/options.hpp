// Options, each declared once: from the declaration come the YAML key, the command-line forms, the help text,
// the resolved config file and the error messages. A component's options struct lives in its own header with
// a function `void describe(OptionSet&, XOptions&)`; cli/ composes them.
//
// Sources, later ones win: the struct's initial values; --config FILE (YAML); the command line, as `--a.b=c`,
// `--a.b c`, or a short form such as `--precision bf16`. Relative paths in a config file are taken as they
// stand, from the working directory. Errors (UserError): unknown key or flag (with the nearest known name),
// wrong type, value not among the choices or out of range, given twice where that can only be a mistake; with
// file and line, or the flag.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace llmft {

struct OptionTraits {
  std::string flag;                  // short form, "--precision"; empty: only --key=value
  std::string value_name = "";       // shown in help, "DIR"; empty: from the type
  std::vector<std::string> choices;  // allowed values; empty: any
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool once = false;  // a second one on the command line is refused, where others replace the first
};

class OptionSet {
 public:
  // The variable must outlive the set. key: dotted path, "adapter.rank".
  void add(std::string key, bool& value, std::string help, OptionTraits traits = {});
  void add(std::string key, int64_t& value, std::string help, OptionTraits traits = {});
  void add(std::string key, double& value, std::string help, OptionTraits traits = {});
  void add(std::string key, std::string& value, std::string help, OptionTraits traits = {});
  // YAML list, or comma-separated on the command line.
  void add(std::string key, std::vector<std::string>& value, std::string help, OptionTraits traits = {});
  // A choice among named values: names[i].second is the value.
  template <class E>
  void add_enum(const std::string& key, E& value, std::span<const std::pair<const char*, E>> names,
                const std::string& help, OptionTraits traits = {}) {
    for (auto& [name, ignored] : names) traits.choices.emplace_back(name);
    std::vector<std::pair<std::string, E>> table;
    for (auto& [name, entry] : names) table.emplace_back(name, entry);
    add_custom(
        key, help, std::move(traits),
        [&value, table](const std::string& text) {
          for (auto& [name, entry] : table)
            if (name == text) value = entry;
        },
        [&value, table] {
          for (auto& [name, entry] : table)
            if (entry == value) return name;
          return std::string();
        });
  }

  void load_yaml(const std::filesystem::path& file);
  // args: what follows the command's name. Handles --config (loaded first, wherever it stands) and --help
  // (help() is true afterwards). Positional arguments are refused.
  void parse(std::span<const std::string> args);

  bool help_requested() const { return help_requested_; }
  // Was this key given by file or flag?
  bool given(const std::string& key) const;
  // "--flag TYPE   help (default: x)" lines, grouped by the first part of the key.
  std::string help_text() const;
  // The resolved config as YAML; load_yaml of it gives the same values.
  std::string dump_yaml() const;
  // Where a value came from, for later errors: "file.yaml:12", "--adapter-rank", "default".
  std::string origin(const std::string& key) const;

 private:
  enum class Kind { boolean, integer, real, text, list };
  struct Option {
    std::string key;
    std::string help;
    OptionTraits traits;
    Kind kind;
    std::function<void(const std::vector<std::string>&)> set;  // one element, but for lists
    std::function<std::vector<std::string>()> get;
    std::string origin = "default";
    std::string default_text;
  };

  void add_custom(std::string key, std::string help, OptionTraits traits,
                  std::function<void(const std::string&)> set, std::function<std::string()> get);
  void add_option(Option option);
  Option& find(const std::string& key, const std::string& origin);
  void assign(Option& option, const std::vector<std::string>& values, const std::string& origin);

  std::vector<Option> options_;
  bool help_requested_ = false;
};

}  // namespace llmft
