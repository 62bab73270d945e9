# `hasattr` and `getattr`, as a workflow that mentions them sees them. The interpreter's own do not know methods of builtin
# types: they would silently answer another thing than Python. What cannot be answered rightly is refused.


def __durable_attributes__():
    has, get = hasattr, getattr
    # What each type has. A point: it is no method.
    table = {}
    for line in """
str __add__ __contains__ __getitem__ __iter__ __len__ capitalize casefold center count encode endswith expandtabs find format format_map index isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip maketrans partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title translate upper zfill
bytes __add__ __contains__ __getitem__ __iter__ __len__ capitalize center count decode endswith expandtabs find fromhex hex index isalnum isalpha isascii isdigit islower isspace istitle isupper join ljust lower lstrip maketrans partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title translate upper zfill
int __add__ __bool__ __float__ __index__ __int__ as_integer_ratio bit_count bit_length conjugate .denominator from_bytes .imag .numerator .real to_bytes
float __add__ __bool__ __float__ __int__ as_integer_ratio conjugate fromhex hex .imag is_integer .real
bool __add__ __bool__ __float__ __index__ __int__ as_integer_ratio bit_count bit_length conjugate .denominator from_bytes .imag .numerator .real to_bytes
complex __add__ __bool__ conjugate .imag .real
list __add__ __contains__ __getitem__ __iter__ __len__ __reversed__ __setitem__ append clear copy count extend index insert pop remove reverse sort
tuple __add__ __contains__ __getitem__ __iter__ __len__ count index
dict __contains__ __getitem__ __iter__ __len__ __reversed__ __setitem__ clear copy fromkeys get items keys pop popitem setdefault update values
set __contains__ __iter__ __len__ add clear copy difference difference_update discard intersection intersection_update isdisjoint issubset issuperset pop remove symmetric_difference symmetric_difference_update union update
frozenset __contains__ __iter__ __len__ copy difference intersection isdisjoint issubset issuperset symmetric_difference union
range __bool__ __contains__ __getitem__ __iter__ __len__ __reversed__ count index .start .step .stop
NoneType __bool__
deque __add__ __contains__ __getitem__ __iter__ __len__ __reversed__ __setitem__ append appendleft clear copy count extend extendleft index insert .maxlen pop popleft remove reverse rotate
Counter __add__ __contains__ __dict__ __getitem__ __iter__ __len__ __missing__ __reversed__ __setitem__ clear copy elements fromkeys get items keys most_common pop popitem setdefault subtract total update values
defaultdict __contains__ __getitem__ __iter__ __len__ __missing__ __reversed__ __setitem__ clear copy .default_factory fromkeys get items keys pop popitem setdefault update values
datetime __add__ astimezone combine ctime date .day dst .fold fromisocalendar fromisoformat fromordinal fromtimestamp .hour isocalendar isoformat isoweekday .max .microsecond .min .minute .month now replace .resolution .second strftime strptime time timestamp timetuple timetz today toordinal .tzinfo tzname utcfromtimestamp utcnow utcoffset utctimetuple weekday .year
date __add__ ctime .day fromisocalendar fromisoformat fromordinal fromtimestamp isocalendar isoformat isoweekday .max .min .month replace .resolution strftime timetuple today toordinal weekday .year
time dst .fold fromisoformat .hour isoformat .max .microsecond .min .minute replace .resolution .second strftime .tzinfo tzname utcoffset
timedelta __add__ __bool__ .days .max .microseconds .min .resolution .seconds total_seconds
timezone dst fromutc .max .min tzname .utc utcoffset
Decimal __add__ __bool__ __float__ __int__ adjusted as_integer_ratio as_tuple canonical compare compare_signal compare_total compare_total_mag conjugate copy_abs copy_negate copy_sign exp fma from_float .imag is_canonical is_finite is_infinite is_nan is_normal is_qnan is_signed is_snan is_subnormal is_zero ln log10 logb logical_and logical_invert logical_or logical_xor max max_mag min min_mag next_minus next_plus next_toward normalize number_class quantize radix .real remainder_near rotate same_quantum scaleb shift sqrt to_eng_string to_integral to_integral_exact to_integral_value
Match __getitem__ end .endpos expand group groupdict groups .lastgroup .lastindex .pos .re .regs span start .string
Pattern findall finditer .flags fullmatch .groupindex .groups match .pattern scanner search split sub subn
PosixPath .anchor as_posix as_uri .drive is_absolute is_relative_to is_reserved joinpath match .name .parent .parents .parts relative_to .root .stem .suffix .suffixes with_name with_stem with_suffix
function __call__ __dict__ __name__
builtin_function_or_method __call__ __name__
type __call__ __dict__ __name__
module __dict__ __name__
coroutine __await__ __name__ close .cr_await .cr_code .cr_frame .cr_origin .cr_running .cr_suspended send throw
BaseException __cause__ __context__ __dict__ __traceback__ add_note .args with_traceback
""".split("\n"):
        names = line.split()
        if names:
            table[names[0]] = names[1:]
    told = set()
    for names in table.values():
        told.update(names)
    # What every object has.
    common = {"__class__", "__doc__", "__eq__", "__ne__", "__hash__", "__repr__", "__str__", "__format__", "__init__"}
    common.update({"__lt__", "__le__", "__gt__", "__ge__", "__dir__", "__new__", "__setattr__", "__getattribute__"})

    # Whether Python's object has it, and whether it is a method; for what the interpreter does not know.
    def knows(value, name):
        if name in common:
            return True, False
        is_own = has(value, "__class__")
        if is_own:
            return name in ("__dict__", "__module__"), False
        names = table["BaseException"] if isinstance(value, BaseException) else table.get(type(value).__name__, [])
        if type(value).__name__ == "type":
            of_class = [] if has(value, "__module__") else table.get(value.__name__, [])
            names = names + of_class
        if name not in names and "." + name not in names and name.startswith("__") and name not in told:
            raise NotImplementedError(f"whether {type(value).__name__} has {name} cannot be told in a workflow")
        return name in names or "." + name in names, name in names and not name.startswith("_")

    def function_of(value, name):
        return __durable_function__(repr(value), name) if type(value).__name__ == "module" else None

    def hasattr_(value, name, /):
        return has(value, name) or function_of(value, name) is not None or knows(value, name)[0]

    def getattr_(value, name, /, *default):
        if has(value, name):
            return get(value, name)
        function = function_of(value, name)
        if function is not None:
            return function
        known, is_method = knows(value, name)
        if is_method and type(value).__name__ != "type":
            return eval(f"lambda *args, **kwargs: value.{name}(*args, **kwargs)", {"value": value})
        if known:
            raise NotImplementedError(f"{name} of {type(value).__name__} cannot be read in a workflow")
        return get(value, name, *default)

    return hasattr_, getattr_
