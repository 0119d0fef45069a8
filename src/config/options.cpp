#include "llmft/config/options.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/text.hpp"

namespace llmft {
namespace {

std::string quoted_yaml(const std::string& text) {
  YAML::Emitter out;
  // plain numbers, booleans and empty strings would read back as something else
  out << YAML::DoubleQuoted << text;
  return out.c_str();
}

// Underscores are accepted for dashes in flags, since keys use them.
std::string with_underscores(std::string text) {
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

}  // namespace

void OptionSet::add_option(Option option) {
  for (const Option& other : options_) check(other.key != option.key, "an option is declared twice");
  option.default_text = join(option.get(), ",");
  options_.push_back(std::move(option));
}

void OptionSet::add(std::string key, bool& value, std::string help, OptionTraits traits) {
  add_option({std::move(key), std::move(help), std::move(traits), Kind::boolean,
              [&value](auto& v) { value = v[0] == "true"; },
              [&value] { return std::vector<std::string>{value ? "true" : "false"}; }, "default", ""});
}

void OptionSet::add(std::string key, int64_t& value, std::string help, OptionTraits traits) {
  add_option({std::move(key), std::move(help), std::move(traits), Kind::integer,
              [&value](auto& v) { value = *parse_int(v[0]); },
              [&value] { return std::vector<std::string>{std::to_string(value)}; }, "default", ""});
}

void OptionSet::add(std::string key, double& value, std::string help, OptionTraits traits) {
  add_option({std::move(key), std::move(help), std::move(traits), Kind::real,
              [&value](auto& v) { value = *parse_double(v[0]); },
              [&value] { return std::vector<std::string>{number(value)}; }, "default", ""});
}

void OptionSet::add(std::string key, std::string& value, std::string help, OptionTraits traits) {
  add_option({std::move(key), std::move(help), std::move(traits), Kind::text,
              [&value](auto& v) { value = v[0]; }, [&value] { return std::vector<std::string>{value}; },
              "default", ""});
}

void OptionSet::add(std::string key, std::vector<std::string>& value, std::string help, OptionTraits traits) {
  add_option({std::move(key), std::move(help), std::move(traits), Kind::list,
              [&value](auto& v) { value = v; }, [&value] { return value; }, "default", ""});
}

void OptionSet::add_custom(std::string key, std::string help, OptionTraits traits,
                           std::function<void(const std::string&)> set, std::function<std::string()> get) {
  add_option({std::move(key), std::move(help), std::move(traits), Kind::text,
              [set = std::move(set)](auto& v) { set(v[0]); },
              [get = std::move(get)] { return std::vector<std::string>{get()}; }, "default", ""});
}

OptionSet::Option& OptionSet::find(const std::string& key, const std::string& origin) {
  for (Option& option : options_)
    if (option.key == key) return option;
  std::vector<std::string> names;
  for (const Option& option : options_) names.push_back(option.key);
  std::string near = nearest_name(key, names);
  user_error("{}: unknown option '{}'{}", origin, key,
             near.empty() ? "; see --help for the list" : fmt::format("; did you mean '{}'?", near));
}

void OptionSet::assign(Option& option, const std::vector<std::string>& values, const std::string& origin) {
  auto refuse = [&](const std::string& want) {
    user_error("{}: '{}' is not valid for {} ({} is needed)", origin, join(values, ","), option.key, want);
  };
  if (option.kind != Kind::list && values.size() != 1) refuse("one value");
  for (const std::string& value : values) {
    if (option.kind == Kind::boolean && value != "true" && value != "false") refuse("true or false");
    if (option.kind == Kind::integer && !parse_int(value)) refuse("a whole number");
    if (option.kind == Kind::real && !parse_double(value)) refuse("a number");
    if (option.kind == Kind::integer || option.kind == Kind::real) {
      double v = *parse_double(value);
      if (!(v >= option.traits.min && v <= option.traits.max)) {
        if (std::isinf(option.traits.max)) refuse(fmt::format("at least {}", number(option.traits.min)));
        refuse(fmt::format("{} to {}", number(option.traits.min), number(option.traits.max)));
      }
    }
    const auto& choices = option.traits.choices;
    if (!choices.empty() && std::find(choices.begin(), choices.end(), value) == choices.end()) {
      std::string near = nearest_name(value, choices);
      user_error("{}: '{}' is not valid for {} (one of {} is needed){}", origin, value, option.key,
                 join(choices, ", "), near.empty() ? "" : fmt::format("; did you mean '{}'?", near));
    }
  }
  option.set(values);
  option.origin = origin;
}

void OptionSet::load_yaml(const std::filesystem::path& file) {
  YAML::Node root;
  try {
    root = YAML::Load(read_file(file));
  } catch (const YAML::Exception& e) {
    user_error("{}:{}: not valid YAML ({})", file.string(), e.mark.line + 1, e.msg);
  }
  std::function<void(const YAML::Node&, const std::string&)> walk = [&](const YAML::Node& node,
                                                                        const std::string& prefix) {
    for (const auto& entry : node) {
      std::string where = fmt::format("{}:{}", file.string(), entry.first.Mark().line + 1);
      if (!entry.first.IsScalar()) user_error("{}: a plain key is needed here", where);
      std::string key = prefix + entry.first.Scalar();
      const YAML::Node& value = entry.second;
      if (value.IsMap()) {
        walk(value, key + ".");
        continue;
      }
      Option& option = find(key, where);
      std::vector<std::string> values;
      if (value.IsSequence()) {
        for (const auto& element : value) {
          if (!element.IsScalar()) user_error("{}: {} takes a list of plain values", where, key);
          values.push_back(element.Scalar());
        }
        if (option.kind != Kind::list) user_error("{}: {} takes one value, not a list", where, key);
      } else if (value.IsScalar()) {
        values.push_back(value.Scalar());
      } else {
        user_error("{}: {} has no value; give one or leave the line out", where, key);
      }
      assign(option, values, where);
    }
  };
  if (root.IsNull()) return;
  if (!root.IsMap()) user_error("{}:1: a config file is a YAML mapping of keys to values", file.string());
  walk(root, "");
}

void OptionSet::parse(std::span<const std::string> args) {
  struct Given {
    std::string flag;
    std::vector<std::string> values;  // empty: a bare flag
  };
  std::vector<Given> given;
  std::map<std::string, std::string> key_of_flag;
  for (const Option& option : options_) {
    key_of_flag["--" + option.key] = option.key;
    if (!option.traits.flag.empty()) key_of_flag[option.traits.flag] = option.key;
  }
  std::string config;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--help" || arg == "-h") {
      help_requested_ = true;
      return;
    }
    if (!arg.starts_with("--"))
      user_error("{}: unexpected argument (options start with --); see --help", arg);
    size_t equals = arg.find('=');
    std::string flag = arg.substr(0, equals);
    auto known = key_of_flag.find(flag);
    if (known == key_of_flag.end()) known = key_of_flag.find("--" + with_underscores(flag.substr(2)));
    bool is_config = flag == "--config";
    if (known == key_of_flag.end() && !is_config) {
      std::vector<std::string> names{"--config", "--help"};
      for (auto& [name, key] : key_of_flag) names.push_back(name);
      std::string near = nearest_name(flag, names);
      user_error("{}: unknown option{}", flag,
                 near.empty() ? "; see --help for the list" : fmt::format("; did you mean '{}'?", near));
    }
    const Option* option = is_config ? nullptr : &find(known->second, flag);
    std::string value;
    if (equals != std::string::npos) {
      value = arg.substr(equals + 1);
    } else if (option != nullptr && option->kind == Kind::boolean &&
               (i + 1 == args.size() || (args[i + 1] != "true" && args[i + 1] != "false"))) {
      value = "true";
    } else if (i + 1 < args.size()) {
      value = args[++i];
    } else {
      user_error("{}: a value is needed after it", flag);
    }
    if (is_config) {
      config = value;
      continue;
    }
    std::vector<std::string> values{value};
    if (option->kind == Kind::list) values = value.empty() ? std::vector<std::string>{} : split(value, ',');
    given.push_back({flag, std::move(values)});
  }
  if (!config.empty()) load_yaml(config);
  std::set<std::string> seen;
  for (const Given& g : given) {
    auto known = key_of_flag.find(g.flag);
    if (known == key_of_flag.end()) known = key_of_flag.find("--" + with_underscores(g.flag.substr(2)));
    Option& option = find(known->second, g.flag);
    if (!seen.insert(option.key).second && option.traits.once)
      user_error("{}: given twice; it takes one value", g.flag);
    assign(option, g.values, g.flag);
  }
}

bool OptionSet::given(const std::string& key) const {
  return origin(key) != "default";
}

std::string OptionSet::origin(const std::string& key) const {
  for (const Option& option : options_)
    if (option.key == key) return option.origin;
  internal_error("origin() of an option that was never declared: " + key);
}

std::string OptionSet::help_text() const {
  std::string text =
      "  --config FILE\n        YAML file with the options below; the command line wins over it\n";
  for (const Option& option : options_) {
    const char* type = option.kind == Kind::integer ? "N"
                       : option.kind == Kind::real  ? "X"
                       : option.kind == Kind::list  ? "A,B,.."
                                                    : "TEXT";
    std::string value = option.kind == Kind::boolean
                            ? ""
                            : " " + (option.traits.value_name.empty() ? type : option.traits.value_name);
    if (!option.traits.choices.empty() && option.traits.value_name.empty())
      value = " " + join(option.traits.choices, "|");
    std::string flags = option.traits.flag.empty() || option.traits.flag == "--" + option.key
                            ? "--" + option.key
                            : option.traits.flag + ", --" + option.key;
    text += fmt::format("  {}{}\n        {}", flags, value, option.help);
    if (!option.default_text.empty()) text += fmt::format(" (default: {})", option.default_text);
    text += '\n';
  }
  return text;
}

std::string OptionSet::dump_yaml() const {
  // Keys of one group together, in the order the group was first declared.
  std::vector<std::pair<std::string, std::string>> groups;
  auto line_of = [](const Option& option, const std::string& name) {
    std::vector<std::string> values = option.get();
    bool plain = option.kind == Kind::boolean || option.kind == Kind::integer || option.kind == Kind::real;
    std::string value;
    if (option.kind == Kind::list) {
      for (std::string& v : values) v = quoted_yaml(v);
      value = "[" + join(values, ", ") + "]";
    } else {
      value = plain ? values[0] : quoted_yaml(values[0]);
    }
    return name + ": " + value + "\n";
  };
  std::string top;
  for (const Option& option : options_) {
    size_t dot = option.key.find('.');
    if (dot == std::string::npos) {
      top += line_of(option, option.key);
      continue;
    }
    std::string group = option.key.substr(0, dot);
    auto it = std::find_if(groups.begin(), groups.end(), [&](auto& g) { return g.first == group; });
    if (it == groups.end()) it = groups.insert(groups.end(), {group, group + ":\n"});
    it->second += "  " + line_of(option, option.key.substr(dot + 1));
  }
  std::string text = top;
  for (auto& [name, lines] : groups) text += lines;
  return text;
}

}  // namespace llmft
