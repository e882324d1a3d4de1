// A PJRT C interface for CPUs over the XLA inside the tensorflow-cpu wheel, so that runtime `pjrt` runs on a machine without a GPU.
//
// Only what runtime_pjrt.cpp calls is there. Execution is synchronous, so every event is complete when it is made.

#include "pjrt_c_api.h"

#include "xla/hlo/builder/xla_computation.h"
#include "xla/literal.h"
#include "xla/pjrt/pjrt_client.h"
#include "xla/pjrt/pjrt_executable.h"
#include "xla/pjrt/plugin/xla_cpu/xla_cpu_pjrt_client.h"

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

// Defined in the wheel's library; its header needs MLIR's.
namespace xla {
absl::Status ParseMlirModuleStringAndConvertToXlaComputation(absl::string_view, XlaComputation &, bool, bool);
}

struct PJRT_Error {
  std::string message;
};
struct PJRT_Event {};
struct PJRT_Device {
  xla::PjRtDevice *device;
};
struct PJRT_Buffer {
  std::unique_ptr<xla::PjRtBuffer> buffer;
};
struct PJRT_Client {
  std::unique_ptr<xla::PjRtClient> client;
  std::vector<PJRT_Device> devices;
  std::vector<PJRT_Device *> pointers;
};
struct PJRT_LoadedExecutable {
  std::unique_ptr<xla::PjRtLoadedExecutable> executable;
};

namespace {

PJRT_Error *error_of(const absl::Status &status)
{
  return status.ok() ? nullptr : new PJRT_Error{std::string(status.message())};
}

void destroy_error(PJRT_Error_Destroy_Args *args)
{
  delete args->error;
}

void error_message(PJRT_Error_Message_Args *args)
{
  args->message = args->error->message.c_str();
  args->message_size = args->error->message.size();
}

PJRT_Error *initialize(PJRT_Plugin_Initialize_Args *)
{
  return nullptr;
}

PJRT_Error *create_client(PJRT_Client_Create_Args *args)
{
  xla::CpuClientOptions options;
  options.asynchronous = false;
  options.cpu_device_count = 1;
  auto client = xla::GetXlaPjrtCpuClient(options);
  if (!client.ok()) return error_of(client.status());
  auto made = std::make_unique<PJRT_Client>();
  made->client = std::move(*client);
  for (auto *device : made->client->addressable_devices()) made->devices.push_back({device});
  for (auto &device : made->devices) made->pointers.push_back(&device);
  args->client = made.release();
  return nullptr;
}

PJRT_Error *destroy_client(PJRT_Client_Destroy_Args *args)
{
  delete args->client;
  return nullptr;
}

PJRT_Error *platform_name(PJRT_Client_PlatformName_Args *args)
{
  args->platform_name = "cpu";
  args->platform_name_size = 3;
  return nullptr;
}

PJRT_Error *addressable_devices(PJRT_Client_AddressableDevices_Args *args)
{
  args->addressable_devices = args->client->pointers.data();
  args->num_addressable_devices = args->client->pointers.size();
  return nullptr;
}

PJRT_Error *compile(PJRT_Client_Compile_Args *args)
{
  xla::XlaComputation computation;
  const absl::string_view code(args->program->code, args->program->code_size);
  const auto parsed = xla::ParseMlirModuleStringAndConvertToXlaComputation(code, computation, false, true);
  if (!parsed.ok()) return error_of(parsed);
  xla::CompileOptions options;
  xla::CompileOptionsProto proto;
  if (proto.ParseFromArray(args->compile_options, static_cast<int>(args->compile_options_size))) {
    auto read = xla::CompileOptions::FromProto(proto);
    if (!read.ok()) return error_of(read.status());
    options = *read;
  }
  auto executable = args->client->client->CompileAndLoad(computation, options);
  if (!executable.ok()) return error_of(executable.status());
  args->executable = new PJRT_LoadedExecutable{std::move(*executable)};
  return nullptr;
}

PJRT_Error *destroy_executable(PJRT_LoadedExecutable_Destroy_Args *args)
{
  delete args->executable;
  return nullptr;
}

PJRT_Error *from_host(PJRT_Client_BufferFromHostBuffer_Args *args)
{
  auto space = args->device->device->default_memory_space();
  if (!space.ok()) return error_of(space.status());
  const auto type = args->type == PJRT_Buffer_Type_F64 ? xla::F64 : args->type == PJRT_Buffer_Type_F32 ? xla::F32 : xla::S32;
  auto buffer = args->client->client->BufferFromHostBuffer(args->data, type, absl::Span<const int64_t>(args->dims, args->num_dims), std::nullopt,
                                                           xla::PjRtClient::HostBufferSemantics::kImmutableOnlyDuringCall, nullptr, *space,
                                                           nullptr);
  if (!buffer.ok()) return error_of(buffer.status());
  args->buffer = new PJRT_Buffer{std::move(*buffer)};
  args->done_with_host_buffer = new PJRT_Event;
  return nullptr;
}

PJRT_Error *execute(PJRT_LoadedExecutable_Execute_Args *args)
{
  std::vector<std::vector<xla::PjRtBuffer *>> inputs(1);
  for (size_t k = 0; k < args->num_args; k++) inputs[0].push_back(args->argument_lists[0][k]->buffer.get());
  xla::ExecuteOptions options;
  for (size_t k = 0; k < args->options->num_non_donatable_input_indices; k++)
    options.non_donatable_input_indices.insert(static_cast<int>(args->options->non_donatable_input_indices[k]));
  auto outputs = args->executable->executable->Execute(absl::MakeSpan(inputs), options);
  if (!outputs.ok()) return error_of(outputs.status());
  for (size_t k = 0; k < (*outputs)[0].size(); k++) args->output_lists[0][k] = new PJRT_Buffer{std::move((*outputs)[0][k])};
  if (args->device_complete_events) args->device_complete_events[0] = new PJRT_Event;
  return nullptr;
}

PJRT_Error *to_host(PJRT_Buffer_ToHostBuffer_Args *args)
{
  auto literal = args->src->buffer->ToLiteralSync();
  if (!literal.ok()) return error_of(literal.status());
  const size_t bytes = (*literal)->size_bytes();
  if (bytes > args->dst_size) return new PJRT_Error{"the destination is too small"};
  std::memcpy(args->dst, (*literal)->untyped_data(), bytes);
  args->event = new PJRT_Event;
  return nullptr;
}

PJRT_Error *destroy_buffer(PJRT_Buffer_Destroy_Args *args)
{
  delete args->buffer;
  return nullptr;
}

PJRT_Error *await_event(PJRT_Event_Await_Args *)
{
  return nullptr;
}

PJRT_Error *destroy_event(PJRT_Event_Destroy_Args *args)
{
  delete args->event;
  return nullptr;
}

PJRT_Api make_api()
{
  PJRT_Api api{};
  api.struct_size = PJRT_Api_STRUCT_SIZE;
  api.pjrt_api_version.struct_size = PJRT_Api_Version_STRUCT_SIZE;
  api.pjrt_api_version.major_version = PJRT_API_MAJOR;
  api.pjrt_api_version.minor_version = PJRT_API_MINOR;
  api.PJRT_Error_Destroy = destroy_error;
  api.PJRT_Error_Message = error_message;
  api.PJRT_Plugin_Initialize = initialize;
  api.PJRT_Client_Create = create_client;
  api.PJRT_Client_Destroy = destroy_client;
  api.PJRT_Client_PlatformName = platform_name;
  api.PJRT_Client_AddressableDevices = addressable_devices;
  api.PJRT_Client_Compile = compile;
  api.PJRT_LoadedExecutable_Destroy = destroy_executable;
  api.PJRT_Client_BufferFromHostBuffer = from_host;
  api.PJRT_LoadedExecutable_Execute = execute;
  api.PJRT_Buffer_ToHostBuffer = to_host;
  api.PJRT_Buffer_Destroy = destroy_buffer;
  api.PJRT_Event_Await = await_event;
  api.PJRT_Event_Destroy = destroy_event;
  return api;
}

}    // namespace

extern "C" __attribute__((visibility("default"))) const PJRT_Api *GetPjrtApi()
{
  static const PJRT_Api api = make_api();
  return &api;
}
